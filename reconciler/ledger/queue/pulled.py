"""Deliveries that a consumer fetches: what it gets next, and what it has acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.queue import deliveries
from reconciler.ledger.queue.deliveries import Attempt, Queued, Ready, Settled
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN
from reconciler.ledger.storage.sql import Sql, filled_in

_OPEN = filled_in(
    f"""
    SELECT d.event_id, d.attempts + 0, d.replays + 0, d.opened_at
      FROM {{asked}} AND d.destination_id = :destination WHERE {OPEN.replace("state", "d.state")}
    """,
    asked=Sql(
        "json_each(:asked) AS asked CROSS JOIN deliveries AS d ON d.event_id = asked.value",
        postgresql="""
        jsonb_array_elements_text(:asked::jsonb) AS asked (value)
        JOIN deliveries AS d ON d.event_id = asked.value::bigint
        """,
    ),
)
_CLOSE_BREAKER = """
    UPDATE destinations SET breaker = 'closed', breaker_failures = 0, breaker_until = NULL
     WHERE id = ? AND breaker <> 'closed'
"""
_END_PAUSES = "UPDATE deliveries SET state = 'pending' WHERE destination_id = ? AND state = 'retrying'"


class HandedOut(msgspec.Struct, frozen=True):
    """A delivery that a consumer was given: which sighting's payload it got, and the replay that it was."""

    event_id: int
    sighting_id: int
    replays: int


class _Open(msgspec.Struct, frozen=True):
    attempts: int
    replays: int
    opened_at: Millis


def begin(db: Database, destination_id: int) -> None:
    """A destination is fetched from now on, inside the open transaction. It may have been sent to before: then it no
    longer counts as down, and no delivery waits for a retry.
    """
    db.execute(_CLOSE_BREAKER, (destination_id,))
    db.execute(_END_PAUSES, (destination_id,))


def next_deliveries(db: Database, destination_id: int, *, now: Millis, limit: int, most_bytes: int) -> list[Ready]:
    """Up to `limit` deliveries that go next, in the order of their events, with about `most_bytes` of payload at
    most, but at least one. None is there without those before it in its lane.
    """
    lanes = deliveries.due_lanes(db, destination_id, now=now, limit=limit)
    found = deliveries.first_of_lanes(db, destination_id, lanes, now=now, limit=limit, each=limit)
    event_ids = sorted(chain.from_iterable(found.values()))
    return deliveries.ready(db, destination_id, event_ids, most_bytes=most_bytes) if event_ids else []


def acknowledge(
    db: Database, destination_id: int, some: Sequence[HandedOut], *, since: Millis, now: Millis
) -> list[Millis]:
    """Record these as delivered, in one transaction. They were handed out at `since`. What was acknowledged before,
    or opened again since then, stays as it is. Returns when those that are delivered now had been opened.
    """
    with transaction(db):
        found = _open(db, destination_id, [one.event_id for one in some])
        settled, opened = [], []
        for one in some:
            open_ = found.get(one.event_id)
            if open_ is None or open_.replays != one.replays or open_.opened_at > since:
                continue
            number, began = open_.attempts + 1, min(since, now)
            attempt = Attempt(one.event_id, destination_id, one.sighting_id, number, began, now)
            settled.append(Settled(attempt, now))
            opened.append(open_.opened_at)
        deliveries.settle(db, settled)
    return opened


def record_failures(db: Database, destination_id: int, failed: Sequence[tuple[Queued, Settled]]) -> None:
    """Record attempts that failed before the consumer got anything, in one transaction, unless others did it."""
    with transaction(db):
        found = _open(db, destination_id, [queued.event_id for queued, _ in failed])
        deliveries.settle(
            db,
            [
                settled
                for queued, settled in failed
                if (open_ := found.get(queued.event_id)) is not None
                and (open_.attempts, open_.replays) == (queued.attempts, queued.replays)
            ],
        )


def _open(db: Database, destination_id: int, event_ids: Sequence[int]) -> dict[int, _Open]:
    asked = {"asked": orjson.dumps(event_ids).decode(), "destination": destination_id}
    rows = db.execute(_OPEN, asked).fetchall()
    return {event_id: _Open(attempts, replays, times.from_iso(at)) for event_id, attempts, replays, at in rows}
