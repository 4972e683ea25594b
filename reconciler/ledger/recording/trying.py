"""What the recorder was about to read when its process ended, and may have ended it.

The caller holds the transaction.
"""

from __future__ import annotations

from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database

_RUNS, _TRYING = "recorder", "recorder trying"


def note_start(db: Database) -> bool:
    """The recorder starts. Returns whether the process before this one did not stop in order."""
    ended_badly = meta.get(db, _RUNS) is not None
    meta.put(db, _RUNS, "runs")
    return ended_badly


def note_stop(db: Database) -> None:
    """The service stops in order."""
    meta.delete(db, _RUNS, _TRYING)


def note_try(db: Database, what: str) -> int:
    """The recorder is about to read this. Returns how often that was the last thing it did before."""
    before, _, times = (meta.get(db, _TRYING) or "").rpartition(" ")
    tried = int(times) if before == what and times.isdecimal() else 0
    meta.put(db, _TRYING, f"{what} {tried + 1}")
    return tried
