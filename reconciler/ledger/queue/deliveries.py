"""Deliveries: which one is sent next, and its result.

The deliveries of one lane are sent one after the other, in the order of their events. A lane is a project, an object
of a project, or a single event if a destination wants no order (see `queue.routes`). Lanes take turns: the table
`lanes` has each lane with its first delivery, and a lane that has had its turn goes to the end.
"""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.sighting import Recovery, Summary
from reconciler.events.times import Millis
from reconciler.ledger.storage import columns
from reconciler.ledger.storage.schema import OPEN

NEXT_LANES = """
    WITH due AS (
        SELECT * FROM (
            SELECT turn, event_id FROM lanes WHERE destination_id = :destination AND due_at IS NULL
             ORDER BY turn LIMIT :limit
        )
        UNION ALL
        SELECT * FROM (
            SELECT turn, event_id FROM lanes WHERE destination_id = :destination AND due_at <= :now
             ORDER BY due_at LIMIT :limit
        )
    )
    SELECT d.lane, d.event_id, d.attempts + 0, d.attempts - d.attempts_before, d.replays + 0, d.first_attempt_at,
           d.opened_at
      FROM due CROSS JOIN deliveries AS d ON d.event_id = due.event_id AND d.destination_id = :destination
     ORDER BY due.turn LIMIT :limit
"""
NEXT_DUE = """
    SELECT due_at FROM lanes WHERE destination_id = ? AND due_at > ? ORDER BY due_at LIMIT 1
"""
_PULLED_BACK = """
    strftime('%Y-%m-%dT%H:%M:%fZ', (:now + coalesce(pause_ms, :longest)) / 1000.0, 'unixepoch')
"""
PULL_BACK = f"""
    UPDATE deliveries SET next_attempt_at = {_PULLED_BACK}
     WHERE destination_id = :destination AND event_id IN (
        SELECT event_id FROM deliveries
         WHERE destination_id = :destination AND state = 'retrying' AND next_attempt_at > :latest
           AND next_attempt_at > {_PULLED_BACK} LIMIT :limit
     )
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
RETRY = f"""
    UPDATE deliveries SET state = 'retrying', attempts = attempts + 1,
                          first_attempt_at = coalesce(first_attempt_at, ?3), next_attempt_at = ?4, pause_ms = ?5,
                          last_status = ?6, last_error = ?7
     WHERE event_id = ?1 AND destination_id = ?2 AND {OPEN}
"""
"""Unless it was skipped in the meantime."""


class Queued(msgspec.Struct, frozen=True):
    """The first delivery of a lane. `attempts` counts all attempts, `failures` those since it was opened, or opened
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
    """An event as a destination is sent it."""

    event_id: int
    happened_at: str
    source: str
    sighting_id: int
    recovery: Recovery | None
    headers: dict[str, str]
    payload: str
    summary: Summary


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


def next_lanes(db: Database, destination_id: int, *, now: Millis, limit: int) -> list[Queued]:
    """The first deliveries of up to `limit` lanes that are due, in the order of the lanes' turns.

    Each costs a few index steps, however many lanes there are, and however long they are.
    """
    asked = {"destination": destination_id, "now": times.iso(now), "limit": limit}
    return [
        Queued(lane, event_id, attempts, failures, replays, times.written(first), times.from_iso(opened))
        for lane, event_id, attempts, failures, replays, first, opened in db.conn.execute(NEXT_LANES, asked)
    ]


def next_due(db: Database, destination_id: int, *, after: Millis) -> Millis | None:
    """When the next lane that waits for a retry is due; None if none waits."""
    row = db.conn.execute(NEXT_DUE, (destination_id, times.iso(after))).fetchone()
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
    return db.conn.execute(PULL_BACK, asked).rowcount > 0


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
    """The destination accepted the event."""
    _finish(db, attempt, "delivered")


def mark_dead(db: Database, attempt: Attempt) -> None:
    """Make the delivery a dead letter: it is not retried automatically."""
    _finish(db, attempt, "dead")


def retry(db: Database, attempt: Attempt, *, pause: Millis, now: Millis) -> None:
    """Retry the delivery after a pause. `now` is the steady clock's, which the pause is measured by."""
    _note(db, attempt)
    row = (
        attempt.event_id,
        attempt.destination_id,
        times.iso(now),
        times.iso(Millis(now + pause)),
        pause,
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
