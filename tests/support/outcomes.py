"""What became of single attempts, as tests of the ledger record it."""

from __future__ import annotations

from reconciler.events.times import Millis
from reconciler.ledger.queue.deliveries import Attempt, Settled, settle
from reconciler.ledger.storage.database import Database


def deliver(db: Database, attempt: Attempt) -> None:
    """The destination accepted the event."""
    settle(db, [Settled(attempt, Millis(0))])


def mark_dead(db: Database, attempt: Attempt) -> None:
    """The delivery is a dead letter."""
    settle(db, [Settled(attempt, Millis(0), is_dead_letter=True)])


def retry(db: Database, attempt: Attempt, *, pause: Millis, now: Millis) -> None:
    """The delivery is tried again after a pause."""
    settle(db, [Settled(attempt, now, pause=pause)])
