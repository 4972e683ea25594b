"""Writes the outcome of an attempt to the ledger."""

from __future__ import annotations

from sqlite_utils import Database

from reconciler.events.times import Millis
from reconciler.forwarding.outcome import Outcome
from reconciler.ledger.queue import deliveries


def record_outcome(db: Database, outcome: Outcome, *, now: Millis) -> None:
    """Write an outcome, inside the open transaction. `now` is the steady clock's."""
    if outcome.is_dead:
        deliveries.bury(db, outcome.attempt)
    elif outcome.pause is not None:
        deliveries.retry(db, outcome.attempt, pause=outcome.pause, now=now)
    else:
        deliveries.deliver(db, outcome.attempt)
