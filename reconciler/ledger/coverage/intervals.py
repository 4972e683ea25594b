"""Coverage: for each project and source, the intervals of time that were read completely. The rest are gaps."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from reconciler.events import times
from reconciler.events.intervals import Interval, joined
from reconciler.ledger.storage.database import Database


def covered(db: Database, project_id: int, source: str) -> list[Interval]:
    """The intervals that were read completely, oldest first; no two touch. An unreadable row covers nothing."""
    rows = db.execute(
        "SELECT covered_from, covered_through FROM coverage WHERE project_id = ? AND source = ? "
        "ORDER BY covered_from",
        (project_id, source),
    )
    return readable(rows)


def readable(rows: Iterable[tuple[str | None, str | None]]) -> list[Interval]:
    """Rows of coverage as intervals. An unreadable row covers nothing."""
    read = ((times.written(start), times.written(end)) for start, end in rows)
    return [Interval(start, end) for start, end in read if start is not None and end is not None and start < end]


class CoveredInterval(msgspec.Struct, frozen=True):
    """An interval for which a source of a project was read completely. Times are ISO 8601 text, as stored."""

    project_id: int
    project: str | None
    source: str
    start: str
    through: str


def covered_intervals(db: Database) -> list[CoveredInterval]:
    """Everything that was read completely, by project and source."""
    rows = db.execute(
        """
        SELECT c.project_id, p.path, c.source, c.covered_from, c.covered_through
          FROM coverage c LEFT JOIN projects p ON p.id = c.project_id
         ORDER BY c.project_id, c.source, c.covered_from
        """
    )
    return [CoveredInterval(*row) for row in rows.fetchall()]


def cover(db: Database, project_id: int, source: str, read: Interval) -> None:
    """Note that an interval was read completely, and that everything in it is recorded.

    It is joined with the intervals that it overlaps or touches.
    """
    if read.start >= read.end:
        return
    whole, replaced = joined(covered(db, project_id, source), read)
    db.executemany(
        "DELETE FROM coverage WHERE project_id = ? AND source = ? AND covered_from = ?",
        [(project_id, source, times.iso(old.start)) for old in replaced],
    )
    db.execute(
        "INSERT INTO coverage (project_id, source, covered_from, covered_through) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (project_id, source, covered_from) DO UPDATE SET covered_through = excluded.covered_through",
        (project_id, source, times.iso(whole.start), times.iso(whole.end)),
    )
