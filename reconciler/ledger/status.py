"""How things stand: per project what was heard and what is covered, per destination what is owed."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger import coverage
from reconciler.ledger.coverage import Interval
from reconciler.ledger.schema import OPEN

PENDING = f"SELECT count(*) FROM deliveries WHERE destination_id = ? AND {OPEN}"
OLDEST = f"""
    SELECT opened_at FROM deliveries WHERE event_id = (
        SELECT min(event_id) FROM deliveries WHERE destination_id = ?1 AND {OPEN}
    ) AND destination_id = ?1
"""
DEAD = "SELECT count(*) FROM deliveries WHERE destination_id = ? AND state = 'dead'"
LAST_ERROR = """
    SELECT last_error FROM deliveries
     WHERE destination_id = ? AND state = 'retrying' AND last_error IS NOT NULL
     ORDER BY next_attempt_at DESC LIMIT 1
"""
LAST_DEAD_ERROR = """
    SELECT last_error FROM deliveries WHERE destination_id = ? AND state = 'dead' ORDER BY event_id DESC LIMIT 1
"""


class Gap(msgspec.Struct, frozen=True):
    """Time that was not read completely; `start` included, `end` not."""

    start: str
    end: str


class ProjectStatus(msgspec.Struct, frozen=True):
    id: int
    path: str | None
    last_webhook_at: str | None
    last_poll_at: str | None
    last_poll_error: str | None
    covered_through: str | None
    gaps: list[Gap]


class DestinationStatus(msgspec.Struct, frozen=True):
    name: str
    active: bool
    pending: int
    oldest_pending_at: str | None
    dead: int
    last_error: str | None


class Status(msgspec.Struct, frozen=True):
    """Everything that `status` shows. Counts of the whole ledger, then a row each."""

    events: int
    projects: list[ProjectStatus]
    destinations: list[DestinationStatus]


def status(db: Database, *, source: str, expected: Millis) -> Status:
    """How things stand. Gaps are counted from when a project's polls began to `expected`: up to when a service
    that polls as it should has covered everything.
    """
    events = db.execute("SELECT count(*) FROM events WHERE merged_into IS NULL").fetchone()[0]
    projects = [
        _project(db, row, source, expected)
        for row in db.query("SELECT * FROM projects ORDER BY coalesce(path, id), id")
    ]
    rows = db.execute("SELECT id, name, active FROM destinations ORDER BY name").fetchall()
    destinations = [_destination(db, *row) for row in rows]
    return Status(events, projects, destinations)


def _project(db: Database, row: dict[str, Any], source: str, expected: Millis) -> ProjectStatus:
    covered = coverage.covered(db, row["id"], source)
    gaps: list[Interval] = []
    if row["watched_since"] is not None:
        gaps = coverage.gaps(covered, Interval(times.from_iso(row["watched_since"]), expected))
    return ProjectStatus(
        id=row["id"],
        path=row["path"],
        last_webhook_at=row["last_webhook_at"],
        last_poll_at=row["last_poll_at"],
        last_poll_error=row["last_poll_error"],
        covered_through=times.iso(covered[-1].end) if covered else None,
        gaps=[Gap(times.iso(gap.start), times.iso(gap.end)) for gap in gaps],
    )


def _destination(db: Database, destination_id: int, name: str, active: int) -> DestinationStatus:
    def one(sql: str) -> Any:
        row = db.execute(sql, [destination_id]).fetchone()
        return None if row is None else row[0]

    return DestinationStatus(
        name=name,
        active=bool(active),
        pending=one(PENDING),
        oldest_pending_at=one(OLDEST),
        dead=one(DEAD),
        last_error=one(LAST_ERROR) or one(LAST_DEAD_ERROR),
    )
