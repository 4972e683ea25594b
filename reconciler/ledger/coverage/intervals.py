"""Coverage: for a project and a source, the intervals of time that were read completely. The rest are gaps."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.times import Millis


class Interval(msgspec.Struct, frozen=True, order=True):
    """A stretch of time, `start` included and `end` not."""

    start: Millis
    end: Millis


def covered(db: Database, project_id: int, source: str) -> list[Interval]:
    """What was read completely, in order of time; no two intervals touch. A row that can't be read covers nothing."""
    rows = db.conn.execute(
        "SELECT covered_from, covered_through FROM coverage WHERE project_id = ? AND source = ? "
        "ORDER BY covered_from",
        (project_id, source),
    )
    return readable(rows)


def readable(rows: Iterable[tuple[str | None, str | None]]) -> list[Interval]:
    """Rows of coverage as intervals. One that can't be read covers nothing."""
    read = ((times.written(start), times.written(end)) for start, end in rows)
    return [Interval(start, end) for start, end in read if start is not None and end is not None and start < end]


class Stretch(msgspec.Struct, frozen=True):
    """A stretch of time that a source of a project was read for completely; times as the ledger writes them."""

    project_id: int
    project: str | None
    source: str
    start: str
    through: str


def stretches(db: Database) -> list[Stretch]:
    """All that was read completely, by project and source."""
    rows = db.conn.execute(
        """
        SELECT c.project_id, p.path, c.source, c.covered_from, c.covered_through
          FROM coverage c LEFT JOIN projects p ON p.id = c.project_id
         ORDER BY c.project_id, c.source, c.covered_from
        """
    )
    return [Stretch(*row) for row in rows.fetchall()]


def cover(db: Database, project_id: int, source: str, read: Interval) -> None:
    """Note that an interval was read completely and all of it is recorded; joins what it touches."""
    if read.start >= read.end:
        return
    kept = covered(db, project_id, source)
    touching = [old for old in kept if old.start <= read.end and read.start <= old.end]
    start = min([read.start, *(old.start for old in touching)])
    end = max([read.end, *(old.end for old in touching)])
    db.conn.executemany(
        "DELETE FROM coverage WHERE project_id = ? AND source = ? AND covered_from = ?",
        [(project_id, source, times.iso(old.start)) for old in touching],
    )
    db.conn.execute(
        "INSERT OR REPLACE INTO coverage (project_id, source, covered_from, covered_through) VALUES (?, ?, ?, ?)",
        (project_id, source, times.iso(start), times.iso(end)),
    )


def gaps(intervals: list[Interval], within: Interval) -> list[Interval]:
    """What of `within` is not covered by `intervals`, which are in order and do not touch."""
    found = []
    start = within.start
    for interval in intervals:
        if interval.end <= start:
            continue
        if interval.start >= within.end:
            break
        if interval.start > start:
            found.append(Interval(start, interval.start))
        start = max(start, interval.end)
    if start < within.end:
        found.append(Interval(start, within.end))
    return found
