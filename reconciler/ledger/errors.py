"""What can be wrong with a ledger, in words for the person who has to mend it."""

from __future__ import annotations


class LedgerError(Exception):
    """The ledger can't do what was asked. The message says why and what to do."""


class LedgerUnavailable(LedgerError):
    """Nothing can be written at this moment: disk full, locked too long, unreadable or corrupt."""


class LedgerDamaged(LedgerUnavailable):
    """What was to be read or written is in a damaged part of the file; other parts may be sound."""


class LedgerVersion(LedgerError):
    """The ledger's tables are those of a later version of this program."""


class LedgerBehind(LedgerError):
    """The ledger's tables are those of an earlier version of this program, or not made yet."""


class ChangeFailed(LedgerError):
    """A change raised what is no trouble of the ledger: a mistake in our code, or a value that can't be written.

    Nothing of the change is in the ledger. The cause is chained. Trying again is of little use.
    """


class LedgerInUse(LedgerError):
    """Another `serve` has this ledger."""
