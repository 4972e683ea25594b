"""Deliveries: which one is sent next, and its result.

The deliveries of one lane are sent one after the other, in the order of their events. A lane is a project, an object
of a project, or a single event if a destination wants no order (see `queue.routes`). Lanes take turns: the table
`lanes` has each lane with its first delivery, and a lane that has had its turn goes to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from operator import itemgetter
from typing import Any

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.sighting import Recovery, Summary
from reconciler.events.times import Millis
from reconciler.ledger.storage import columns
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN
from reconciler.ledger.storage.sql import Sql, filled_in

DUE_LANES = """
    WITH due AS (
        SELECT * FROM (
            SELECT turn, lane FROM lanes WHERE destination_id = :destination AND due_at IS NULL
             ORDER BY turn LIMIT :limit
        ) AS ready
        UNION ALL
        SELECT * FROM (
            SELECT turn, lane FROM lanes WHERE destination_id = :destination AND due_at <= :now
             ORDER BY due_at LIMIT :limit
        ) AS waited
    )
    SELECT lane FROM due ORDER BY turn LIMIT :limit
"""
FIRST_OF_LANE = f"""
    SELECT event_id, NOT (state = 'retrying' AND next_attempt_at > ?1) FROM deliveries
     WHERE destination_id = ?2 AND lane = ?3 AND event_id > ?4 AND {OPEN} ORDER BY event_id LIMIT ?5
"""
NEXT_DUE = """
    SELECT due_at FROM lanes WHERE destination_id = ? AND due_at > ? ORDER BY due_at LIMIT 1
"""
_PULLED_BACK = Sql(
    "strftime('%Y-%m-%dT%H:%M:%fZ', (:now + coalesce(pause_ms, :longest)) / 1000.0, 'unixepoch')",
    postgresql="""
        to_char(to_timestamp((:now + coalesce(pause_ms, :longest)) / 1000.0) AT TIME ZONE 'UTC',
                'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') COLLATE "C"
    """,
)
PULL_BACK = filled_in(
    """
    UPDATE deliveries SET next_attempt_at = {back}
     WHERE destination_id = :destination AND event_id IN (
        SELECT event_id FROM deliveries
         WHERE destination_id = :destination AND state = 'retrying' AND next_attempt_at > :latest
           AND next_attempt_at > {back} LIMIT :limit
     )
    """,
    back=_PULLED_BACK,
)
_SENT = """
    e.happened_at, e.recorded_at, s.seen_at, s.source, s.id, s.recovery, s.headers, s.payload,
    s.kind, s.action, s.project_id, s.project_path, s.author, s.title, s.ref, s.object
"""
EVENT = f"SELECT {_SENT} FROM events e JOIN sightings s ON s.id = e.sighting_id WHERE e.id = ?"
_QUEUED = """
    d.lane, d.event_id, d.attempts + 0 AS attempts, d.attempts - d.attempts_before AS failures,
    d.replays + 0 AS replays, d.first_attempt_at, d.opened_at
"""
_EVENTS = "LEFT JOIN events AS e ON e.id = d.event_id LEFT JOIN sightings AS s ON s.id = e.sighting_id"
READY = Sql(
    f"""
    SELECT {_QUEUED}, {_SENT}
      FROM json_each(:asked) AS asked
      CROSS JOIN deliveries AS d ON d.event_id = asked.value AND d.destination_id = :destination {_EVENTS}
    """,
    # All rows are sent at once, so that those beyond the bound must not be among them.
    postgresql=f"""
    SELECT lane, event_id, attempts, failures, replays, first_attempt_at, opened_at, happened_at, recorded_at,
           seen_at, source, id, recovery, headers, payload, kind, action, project_id, project_path, author, title,
           ref, object
      FROM (
        SELECT asked.place, {_QUEUED}, {_SENT}, sum(octet_length(s.payload)) OVER (
                    ORDER BY asked.place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
          FROM jsonb_array_elements_text(:asked::jsonb) WITH ORDINALITY AS asked (value, place)
          JOIN deliveries AS d ON d.event_id = asked.value::bigint AND d.destination_id = :destination {_EVENTS}
      ) AS found
     WHERE bytes_before IS NULL OR bytes_before < :most_bytes ORDER BY place
    """,
)
"""SQLite's rows are read one by one, so that its statement needs no bound."""
FAILED_OFTEN = Sql(
    """
    SELECT d.event_id FROM json_each(?) AS asked
     CROSS JOIN deliveries AS d ON d.event_id = asked.value AND d.destination_id = ?
     WHERE d.attempts - d.attempts_before >= ?
    """,
    postgresql="""
    SELECT d.event_id FROM jsonb_array_elements_text(?::jsonb) AS asked (value)
      JOIN deliveries AS d ON d.event_id = asked.value::bigint AND d.destination_id = ?
     WHERE d.attempts - d.attempts_before >= ?
    """,
)
FINISH = """
    UPDATE deliveries SET state = ?3, attempts = attempts + 1, first_attempt_at = coalesce(first_attempt_at, ?4),
                          finished_at = ?5, last_status = ?6, last_error = ?7, sighting_id = ?8
     WHERE event_id = ?1 AND destination_id = ?2
"""
_ATTEMPT = """
    INSERT INTO attempts (event_id, destination_id, number, started_at, duration_ms, status, error_class, error,
                          response) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
RETRY = f"""
    UPDATE deliveries SET state = 'retrying', attempts = attempts + 1,
                          first_attempt_at = coalesce(first_attempt_at, ?3), next_attempt_at = ?4, pause_ms = ?5,
                          last_status = ?6, last_error = ?7
     WHERE event_id = ?1 AND destination_id = ?2 AND {OPEN}
"""
"""Unless it was skipped in the meantime."""


class Queued(msgspec.Struct, frozen=True):
    """A delivery that is due. `attempts` counts all attempts, `failures` those since it was opened, or opened
    again by a replay.
    """

    lane: str
    event_id: int
    attempts: int
    failures: int
    replays: int
    first_attempt_at: Millis | None
    opened_at: Millis


class Outgoing(msgspec.Struct, frozen=True):
    """An event as a destination is sent it. `seen_at` is when the report arrived that `payload` comes from."""

    event_id: int
    happened_at: str
    source: str
    sighting_id: int
    recovery: Recovery | None
    headers: dict[str, str]
    payload: str
    summary: Summary
    recorded_at: str = ""
    seen_at: str = ""


class Ready(msgspec.Struct, frozen=True):
    """A delivery that is due, and the event that is sent."""

    queued: Queued
    event: Outgoing


class Attempt(msgspec.Struct, frozen=True):
    """One attempt: when it began and ended, and the answer.

    `error_class` is None if the destination accepted the event; `sighting_id` is then the sighting whose payload it
    accepted.
    """

    event_id: int
    destination_id: int
    sighting_id: int | None
    number: int
    started_at: Millis
    ended_at: Millis
    status: int | None = None
    error_class: str | None = None
    error: str | None = None
    response: str | None = None


class Settled(msgspec.Struct, frozen=True):
    """An attempt and what follows from it: delivered, unless it `is_dead_letter` or is tried again `pause`
    after `now`, which is the steady clock's.
    """

    attempt: Attempt
    now: Millis
    is_dead_letter: bool = False
    pause: Millis | None = None


def due_lanes(db: Database, destination_id: int, *, now: Millis, limit: int) -> list[str]:
    """Up to `limit` lanes whose first delivery is due, in the order of their turns.

    Each costs a few index steps, however many lanes there are, and however long they are.
    """
    asked = {"destination": destination_id, "now": times.iso(now), "limit": limit}
    return [lane for (lane,) in db.execute(DUE_LANES, asked)]


def first_of_lanes(
    db: Database, destination_id: int, lanes: Sequence[str], *, now: Millis, limit: int, each: int
) -> dict[str, list[int]]:
    """The events that go next of each of these lanes, up to `limit` in all, shared evenly, and up to `each` of one.

    What one lane leaves of its share, the others get. An event that is not due yet holds up those behind it.
    """
    found: dict[str, list[int]] = {lane: [] for lane in lanes}
    left, until, more = limit, times.iso(now), list(lanes)
    while left and more:
        share, longer = -(-left // len(more)), []
        parts = [min(share, each - len(found[lane])) for lane in more]
        asked = [
            (until, destination_id, lane, found[lane][-1] if found[lane] else -1, part)
            for lane, part in zip(more, parts, strict=True)
        ]
        for lane, part, rows in zip(more, parts, db.query_each(FIRST_OF_LANE, asked), strict=True):
            events = found[lane]
            due = [row[0] for row in takewhile(itemgetter(1), rows)][:left]
            events += due
            left -= len(due)
            if len(due) == part and len(events) < each:
                longer.append(lane)
            if not left:
                break
        more = longer
    return found


def ready(db: Database, destination_id: int, event_ids: Sequence[int], *, most_bytes: int) -> list[Ready]:
    """These deliveries with their events, in this order, up to about `most_bytes` of payload, but at least one."""
    found, size = [], 0
    asked = {"asked": orjson.dumps(event_ids).decode(), "destination": destination_id, "most_bytes": most_bytes}
    rows = db.execute(READY, asked)
    for lane, event_id, attempts, failures, replays, first, opened, *event in rows:
        queued = Queued(lane, event_id, attempts, failures, replays, times.written(first), times.from_iso(opened))
        one = Ready(queued, _outgoing(event_id, *event))
        found.append(one)
        size += len(one.event.payload or "")
        if size >= most_bytes:
            break
    return found


def failed_often(db: Database, destination_id: int, event_ids: Sequence[int], *, failures: int) -> set[int]:
    """Those of these deliveries that have failed at least so many times."""
    rows = db.execute(FAILED_OFTEN, (orjson.dumps(event_ids).decode(), destination_id, failures))
    return {event_id for (event_id,) in rows}


def outgoing(db: Database, event_id: int) -> Outgoing:
    """An event with its payload."""
    return _outgoing(event_id, *db.execute(EVENT, (event_id,)).fetchone())


def _outgoing(
    event_id: int,
    happened_at: str,
    recorded_at: str,
    seen_at: str,
    source: str,
    sighting_id: int,
    recovery: str | None,
    headers: str,
    payload: str,
    *about: Any,
) -> Outgoing:
    return Outgoing(
        event_id=event_id,
        happened_at=happened_at,
        source=source,
        sighting_id=sighting_id,
        recovery=columns.recovery(recovery),
        headers=columns.headers(headers),
        payload=payload,
        summary=Summary(*about),
        recorded_at=recorded_at,
        seen_at=seen_at,
    )


def next_due(db: Database, destination_id: int, *, after: Millis) -> Millis | None:
    """When the next lane that waits for a retry is due; None if none waits."""
    row = db.execute(NEXT_DUE, (destination_id, times.iso(after))).fetchone()
    return None if row is None else times.from_iso(row[0])


def pull_back(db: Database, destination_id: int, *, longest: Millis, now: Millis, limit: int = 500) -> bool:
    """Bring forward retries that are due later than their own pause from now: the wall clock was set back.

    `longest` is the longest pause that the config allows; what is due within it is not looked at. Works in short
    steps, inside the open transaction: call it until it returns False.
    """
    asked = {
        "destination": destination_id,
        "now": now,
        "longest": longest,
        "latest": times.iso(Millis(now + longest)),
        "limit": limit,
    }
    return db.execute(PULL_BACK, asked).rowcount > 0


def settle(db: Database, some: Sequence[Settled]) -> None:
    """Record attempts, and what follows from each."""
    db.executemany(_ATTEMPT, [_attempt_row(one.attempt) for one in some])
    finished = [_finish_row(one) for one in some if one.is_dead_letter or one.pause is None]
    retried = [
        _retry_row(one.attempt, one.pause, one.now)
        for one in some
        if not one.is_dead_letter and one.pause is not None
    ]
    if finished:
        db.executemany(FINISH, finished)
    if retried:
        db.executemany(RETRY, retried)


_Row = tuple[Any, ...]


def _attempt_row(attempt: Attempt) -> _Row:
    return (
        attempt.event_id,
        attempt.destination_id,
        attempt.number,
        times.iso(attempt.started_at),
        attempt.ended_at - attempt.started_at,
        attempt.status,
        attempt.error_class,
        attempt.error,
        attempt.response,
    )


def _finish_row(one: Settled) -> _Row:
    attempt = one.attempt
    return (
        attempt.event_id,
        attempt.destination_id,
        "dead" if one.is_dead_letter else "delivered",
        times.iso(attempt.started_at),
        times.iso(attempt.ended_at),
        attempt.status,
        attempt.error,
        None if one.is_dead_letter else attempt.sighting_id,
    )


def _retry_row(attempt: Attempt, pause: Millis, now: Millis) -> _Row:
    return (
        attempt.event_id,
        attempt.destination_id,
        times.iso(now),
        times.iso(Millis(now + pause)),
        pause,
        attempt.status,
        attempt.error,
    )
