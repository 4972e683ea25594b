"""Dead letters, and the attempts that were made."""

from __future__ import annotations

from typing import Any

import msgspec

from reconciler.ledger.queue.destinations import destination_states
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql, filled_in
from reconciler.ledger.views.browse import FAR, Filter

_JOIN = Sql("CROSS JOIN", postgresql="JOIN")
# OFFSET 0: event by event. PostgreSQL would read all events from the newest on if it took dead letters for frequent.
_EVENTS = Sql(
    "CROSS JOIN events e ON e.id = d.event_id",
    postgresql="JOIN LATERAL (SELECT * FROM events WHERE id = d.event_id OFFSET 0) e ON true",
)
_LETTER = filled_in(
    """
    SELECT e.id, x.name AS destination, e.happened_at, s.project_path, e.kind, s.action, s.title,
           d.attempts + 0 AS attempts, d.finished_at AS dead_since, d.last_status, d.last_error
      FROM destinations x
      {0} deliveries d ON d.destination_id = x.id AND d.state = 'dead'
      {1}
      {0} sightings s ON s.id = e.sighting_id
     WHERE e.merged_into IS NULL
    """,
    _JOIN,
    _EVENTS,
)
_OF_EVENT = filled_in("{} AND d.event_id = ? ORDER BY x.name", _LETTER)
ATTEMPTS = """
    SELECT x.name AS destination, a.number, a.started_at, a.duration_ms + 0 AS duration_ms,
           a.status, a.error_class, a.error, a.response
      FROM attempts a JOIN destinations x ON x.id = a.destination_id WHERE a.event_id = ? ORDER BY a.id
"""


def dead_letters(db: Database, wanted: Filter, *, destination: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest dead letters that match a filter, newest last; of one destination, or of all."""
    where, values = wanted.where()
    sql = filled_in("{} AND x.id = ?{} ORDER BY d.event_id DESC LIMIT ?", _LETTER, where)
    found = [
        letter
        for one in destination_states(db)
        if destination in (None, one.name)
        for letter in db.query(sql, [one.id, *values, limit])
    ]
    found.sort(key=lambda letter: letter["id"])
    return found[-limit:]


class Letter(msgspec.Struct, frozen=True):
    """Where a page of dead letters ends."""

    event_id: int
    destination: str


def page(
    db: Database, wanted: Filter, *, destination: str | None, limit: int, before: Letter | None = None
) -> list[dict[str, Any]]:
    """The next dead letters that match a filter: the newest event first, those of one event by destination. The next
    page begins `before` the last one.
    """
    where, values = wanted.where()
    sql = filled_in("{} AND x.id = ?{} AND d.event_id < ? ORDER BY d.event_id DESC LIMIT ?", _LETTER, where)
    found: list[dict[str, Any]] = []
    for one in destination_states(db):
        if destination in (None, one.name):
            end = FAR if before is None else before.event_id + (one.name > before.destination)
            found += db.query(sql, [one.id, *values, end, limit])
    found.sort(key=lambda letter: (-letter["id"], letter["destination"]))
    return found[:limit]


def dead_letters_of(db: Database, event_id: int) -> list[dict[str, Any]]:
    """The dead letters of one event, by destination."""
    return list(db.query(_OF_EVENT, [event_id]))


def attempts(db: Database, event_id: int) -> list[dict[str, Any]]:
    """The attempts to deliver an event, oldest first, as far as they are kept."""
    return list(db.query(ATTEMPTS, [event_id]))
