"""Gaps: time that a source has not read completely, why, and until when it can still be read."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Mapping
from operator import itemgetter

import msgspec

from reconciler.events import times
from reconciler.events.intervals import Interval, uncovered
from reconciler.events.times import Millis
from reconciler.events.troubles import SWITCHED_OFF
from reconciler.ledger.coverage import downtime, intervals
from reconciler.ledger.coverage.downtime import Downtime
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import IS_TIME
from reconciler.ledger.storage.sql import Sql

EXPIRING = 7
"""A gap is expiring in the last seventh of the time for which GitLab keeps its events: the last day of 7."""


def _unfinished(sources: str, least: str, is_time: str) -> str:
    until = f"""
        {least}(:expected, CASE WHEN s.watched_until {is_time} THEN s.watched_until ELSE :expected END,
            CASE WHEN s.trouble = '{SWITCHED_OFF}' AND s.trouble_since {is_time}
                 THEN s.trouble_since ELSE :expected END)
    """
    return f"""
        SELECT s.project_id, s.source, s.watched_since, s.watched_until, s.trouble, s.error,
               s.trouble_since, c.covered_from, c.covered_through
          FROM {sources} s LEFT JOIN coverage c ON c.project_id = s.project_id AND c.source = s.source
         WHERE NOT s.watched_since {is_time}
            OR s.watched_since < {until}
           AND NOT EXISTS (SELECT 1 FROM coverage w
                            WHERE w.project_id = s.project_id AND w.source = s.source
                              AND w.covered_from <= s.watched_since AND w.covered_from {is_time}
                              AND w.covered_through >= {until} AND w.covered_through {is_time})
         ORDER BY s.project_id, s.source, c.covered_from
    """


def _unfinished_of(sources: str) -> Sql:
    return Sql(_unfinished(sources, "min", IS_TIME), postgresql=_unfinished(sources, "least", IS_TIME.postgresql))


UNFINISHED = _unfinished_of("sources")
"""The sources that are not covered by a single interval, with all their intervals.

Nearly all sources have no gap, and SQL leaves those out. A row that it can't read counts as a gap. Time in which a
source is switched off need not be covered.
"""
UNFINISHED_OF_PROJECT = _unfinished_of("(SELECT * FROM sources WHERE project_id = :project)")

Row = tuple[int, str, str, str | None, str | None, str | None, str | None, str | None, str | None]


class Gap(msgspec.Struct, frozen=True):
    """An interval that a source has not read completely.

    `why` is `down` (the service was), a trouble of the source (`refused`, `rate limit`, `unavailable`, `no webhook`,
    or `switched off` since then), `not read yet`, or `too old`: GitLab has no records of that time left.
    `closable_until` is when GitLab begins to delete its records; None if it has.
    """

    project_id: int
    source: str
    during: Interval
    why: str
    error: str | None
    closable_until: Millis | None

    @property
    def is_final(self) -> bool:
        return self.closable_until is None


def gaps(
    db: Database, *, keeps: Mapping[str, Millis], expected: Millis, now: Millis, project_id: int | None = None
) -> list[Gap]:
    """All gaps, or those of one project, by project and source.

    `keeps` says how long GitLab keeps what each source reads. `expected` is the time up to which a service that works
    as it should has read everything.
    """
    asked = {"expected": times.iso(expected), "project": project_id}
    rows = db.execute(UNFINISHED if project_id is None else UNFINISHED_OF_PROJECT, asked).fetchall()
    was_down = _was_down(downtime.downtimes(db) if rows else [])
    found = []
    for (_, source), some in itertools.groupby(rows, key=itemgetter(0, 1)):
        keeps_for = keeps.get(source)
        if keeps_for is not None:
            found += _of_source(list(some), keeps_for, expected, now, was_down)
    return found


def is_expiring(gap: Gap, *, keeps_for: Millis, now: Millis) -> bool:
    """Whether GitLab is about to delete what it could be closed with."""
    return gap.closable_until is not None and gap.closable_until - now < keeps_for / EXPIRING


def _of_source(
    rows: list[Row], keeps_for: Millis, expected: Millis, now: Millis, was_down: Callable[[Interval], bool]
) -> list[Gap]:
    """The gaps of one source: the time for which it is watched, without what it covers."""
    project_id, source, since, until, trouble, error, trouble_since, _, _ = rows[0]
    end = min(expected, times.written(until) or expected)
    if trouble == SWITCHED_OFF and (noticed := times.written(trouble_since)) is not None:
        end = min(end, Millis(noticed - (now - expected)))  # it is noticed with the same delay as events
    watched = Interval(times.from_iso(since), end)
    read = intervals.readable((start, end) for *_, start, end in rows)
    forgotten = Millis(now - keeps_for)
    found = []
    for gap in uncovered(read, watched):
        lost = Interval(gap.start, min(gap.end, forgotten))
        if lost.start < lost.end:
            found.append(Gap(project_id, source, lost, "too old", None, None))
        left = Interval(max(gap.start, forgotten), gap.end)
        if left.start < left.end:
            if trouble is not None and (trouble == SWITCHED_OFF or left.end >= watched.end):
                why = trouble
            else:
                why = "down" if was_down(left) else trouble or "not read yet"
            closable_until = Millis(left.start + keeps_for)
            found.append(Gap(project_id, source, left, why, error if why == trouble else None, closable_until))
    return found


def _was_down(downtimes: list[Downtime]) -> Callable[[Interval], bool]:
    """A function that says whether the service was down during part of an interval."""
    starts = [one.during.start for one in downtimes]
    latest_ends = list(itertools.accumulate((one.during.end for one in downtimes), max))

    def was_down(during: Interval) -> bool:
        before = bisect_left(starts, during.end)
        return before > 0 and latest_ends[before - 1] > during.start

    return was_down
