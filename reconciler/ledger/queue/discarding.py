"""Discarding dead letters: they are marked as handled, without being delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.queue.replay import ReplayRequest, of_now, steps
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import EACH_INTEGER, filled_in

_DISCARD = filled_in(
    """
    UPDATE deliveries SET state = 'discarded', finished_at = ?
     WHERE event_id IN ({}) AND destination_id = ? AND state = 'dead'
    """,
    EACH_INTEGER,
)


def dead_letters(db: Database, request: ReplayRequest, destination_id: int) -> Iterator[list[int]]:
    """The events of the dead letters that a request means, of one destination, in short steps. Those of destinations
    that are not in the config any more count too.
    """
    for step in steps(db, of_now(db, request), destination_id):
        yield [event_id for event_id, _, _ in step]


def discard(db: Database, destination_id: int, event_ids: Sequence[int], *, now: Millis) -> int:
    """Discard those of these that are dead letters, inside the open transaction. Returns how many.

    One statement, because nobody else can write until the transaction ends. Keep `event_ids` short (EVENTS_A_STEP).
    """
    return db.execute(_DISCARD, (times.iso(now), orjson.dumps(list(event_ids)).decode(), destination_id)).rowcount
