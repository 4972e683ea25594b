"""The ledger's errors. Their messages are for the person who has to fix it."""

from __future__ import annotations


class LedgerError(Exception):
    """The ledger can't do what was requested. The message says why, and what to do."""


class LedgerUnavailable(LedgerError):
    """The ledger can't be used at the moment: the disk is full, or the file is locked, unreadable or corrupt."""


class LedgerBusy(LedgerUnavailable):
    """Another connection writes at the moment."""


class LedgerDamaged(LedgerUnavailable):
    """A damaged part of the file was to be read or written. Other parts may be intact."""


class LedgerVersion(LedgerError):
    """A later version of this program wrote the ledger."""


class LedgerBehind(LedgerError):
    """An earlier version of this program wrote the ledger, or its tables do not exist yet."""


class LedgerMissing(LedgerBehind):
    """There are no tables yet."""


class IntakeUnavailable(LedgerError):
    """The intake can't be used at the moment: the disk is full, or the file is locked or unreadable."""


class ChangeFailed(LedgerError):
    """A change failed because of a bug, or because of a value that can't be written.

    No part of the change is in the ledger. The cause is chained. Trying again will hardly help.
    """


class LedgerInUse(LedgerError):
    """Another `serve` has this ledger."""
