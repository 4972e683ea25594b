"""What can be wrong with a ledger, in words for the person who has to mend it."""

from __future__ import annotations


class LedgerError(Exception):
    """The ledger can't do what was asked. The message says why and what to do."""


class LedgerUnavailable(LedgerError):
    """Nothing can be written at this moment: disk full, locked too long, unreadable or corrupt."""


class LedgerInUse(LedgerError):
    """Another `serve` has this ledger."""
