"""The outbox: which delivery goes out next, and what became of it.

Deliveries of one lane go out one after the other, in the order of their events. A lane is a project, an object
of a project, or a single event where a destination asked for no order (see `ledger.routes`).
"""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.sighting import Recovery, Summary
from reconciler.events.times import Millis
from reconciler.ledger import columns
from reconciler.ledger.schema import OPEN

NEXT_LANES = f"""
    WITH RECURSIVE heads (lane, event_id) AS (
        SELECT * FROM (
            SELECT lane, event_id FROM deliveries
             WHERE destination_id = :destination AND {OPEN} ORDER BY lane, event_id LIMIT 1
        )
        UNION ALL
        SELECT (SELECT lane FROM deliveries WHERE destination_id = :destination AND {OPEN} AND lane > heads.lane
                 ORDER BY lane, event_id LIMIT 1),
               (SELECT event_id FROM deliveries WHERE destination_id = :destination AND {OPEN}
                   AND lane > heads.lane ORDER BY lane, event_id LIMIT 1)
          FROM heads WHERE heads.lane IS NOT NULL
    )
    SELECT heads.lane FROM heads
      CROSS JOIN deliveries AS d ON d.event_id = heads.event_id AND d.destination_id = :destination
     WHERE d.next_attempt_at <= :now LIMIT :limit
"""
HEAD = f"""
    SELECT event_id, attempts + 0, attempts - attempts_before, replays + 0, first_attempt_at,
           next_attempt_at, opened_at
      FROM deliveries
     WHERE destination_id = ? AND lane = ? AND {OPEN} ORDER BY lane, event_id LIMIT 1
"""
NEXT_DUE = """
    SELECT min(next_attempt_at) FROM deliveries WHERE destination_id = ? AND state = 'retrying'
"""
PAYLOAD = """
    SELECT e.id, e.happened_at, s.source, s.id, s.recovery, s.headers, s.payload,
           s.kind, s.action, s.project_id, s.project_path, s.author, s.title, s.ref, s.object
      FROM events e JOIN sightings s ON s.id = e.sighting_id WHERE e.id = ?
"""
FINISH = """
    UPDATE deliveries SET state = ?3, attempts = attempts + 1, first_attempt_at = coalesce(first_attempt_at, ?4),
                          finished_at = ?5, last_status = ?6, last_error = ?7, sighting_id = ?8
     WHERE event_id = ?1 AND destination_id = ?2
"""
_ATTEMPT = """
    INSERT INTO attempts (event_id, destination_id, number, started_at, duration_ms, status, error_class, error,
                          response) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
RETRY = """
    UPDATE deliveries SET state = 'retrying', attempts = attempts + 1,
                          first_attempt_at = coalesce(first_attempt_at, ?3), next_attempt_at = ?4,
                          last_status = ?5, last_error = ?6
     WHERE event_id = ?1 AND destination_id = ?2
"""


class Queued(msgspec.Struct, frozen=True):
    """The delivery at the head of a lane. `attempts`: all that were made; `failures`: those since it was opened,
    or opened again by a replay.
    """

    event_id: int
    attempts: int
    failures: int
    replays: int
    first_attempt_at: Millis | None
    next_attempt_at: Millis
    opened_at: Millis


class Outgoing(msgspec.Struct, frozen=True):
    """What a destination is sent of an event."""

    event_id: int
    happened_at: str
    source: str
    sighting_id: int
    recovery: Recovery | None
    headers: dict[str, str]
    payload: str
    summary: Summary


class Attempt(msgspec.Struct, frozen=True):
    """One try: when it began and ended, and what came back. `error_class` is None where it was taken."""

    event_id: int
    destination_id: int
    sighting_id: int
    number: int
    started_at: Millis
    ended_at: Millis
    status: int | None = None
    error_class: str | None = None
    error: str | None = None
    response: str | None = None


def next_lanes(db: Database, destination_id: int, *, now: Millis, limit: int) -> list[str]:
    """Up to `limit` lanes whose head is due. Costs one index step a lane, however long the lanes are."""
    asked = {"destination": destination_id, "now": times.iso(now), "limit": limit}
    return [lane for (lane,) in db.conn.execute(NEXT_LANES, asked)]


def head(db: Database, destination_id: int, lane: str) -> Queued | None:
    """The delivery that goes next in a lane, due or not; None where the lane is empty."""
    row = db.conn.execute(HEAD, (destination_id, lane)).fetchone()
    if row is None:
        return None
    event_id, attempts, failures, replays, first, due, opened = row
    moments = (times.written(first), times.from_iso(due), times.from_iso(opened))
    return Queued(event_id, attempts, failures, replays, *moments)


def next_due(db: Database, destination_id: int) -> Millis | None:
    """When the next retry of a destination is due."""
    (due,) = db.conn.execute(NEXT_DUE, (destination_id,)).fetchone()
    return None if due is None else times.from_iso(due)


def outgoing(db: Database, event_id: int) -> Outgoing:
    """An event with its payload."""
    row = db.conn.execute(PAYLOAD, (event_id,)).fetchone()
    ident, happened_at, source, sighting_id, recovery, headers, payload, *about = row
    return Outgoing(
        event_id=ident,
        happened_at=happened_at,
        source=source,
        sighting_id=sighting_id,
        recovery=columns.recovery(recovery),
        headers=columns.headers(headers),
        payload=payload,
        summary=Summary(*about),
    )


def deliver(db: Database, attempt: Attempt) -> None:
    """The destination took the event."""
    _finish(db, attempt, "delivered")


def bury(db: Database, attempt: Attempt) -> None:
    """The event will not be tried again by itself: a dead letter."""
    _finish(db, attempt, "dead")


def retry(db: Database, attempt: Attempt, *, next_attempt_at: Millis) -> None:
    """The event will be tried again."""
    _note(db, attempt)
    row = (
        attempt.event_id,
        attempt.destination_id,
        times.iso(attempt.started_at),
        times.iso(next_attempt_at),
        attempt.status,
        attempt.error,
    )
    db.conn.execute(RETRY, row)


def _note(db: Database, attempt: Attempt) -> None:
    row = (
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
    db.conn.execute(_ATTEMPT, row)


def _finish(db: Database, attempt: Attempt, state: str) -> None:
    _note(db, attempt)
    row = (
        attempt.event_id,
        attempt.destination_id,
        state,
        times.iso(attempt.started_at),
        times.iso(attempt.ended_at),
        attempt.status,
        attempt.error,
        attempt.sighting_id if state == "delivered" else None,
    )
    db.conn.execute(FINISH, row)
