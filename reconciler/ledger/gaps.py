"""Gaps: which time a source has not read completely, why, and until when that can still be mended."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlite_utils import Database

from reconciler.events.times import Millis
from reconciler.ledger import coverage, downtime, standing
from reconciler.ledger.coverage import Interval
from reconciler.ledger.standing import Standing

EXPIRING = 7
"""A gap is about to become final in the last seventh of the time for which GitLab keeps it: the last day of 7."""


class Gap(msgspec.Struct, frozen=True):
    """A stretch of time that a source has not read completely.

    `why`: `down` (the service was), a trouble of the source (`refused`, `rate limit`, `unavailable`, `no webhook`),
    `not read yet`, or `too old`: GitLab keeps no record of that time any more. `closable_until` is when GitLab
    begins to forget it; None where it has.
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


def gaps(db: Database, *, keeps: Mapping[str, Millis], expected: Millis, now: Millis) -> list[Gap]:
    """All gaps, by project and source. `keeps` says for how long GitLab keeps what each source reads; up to
    `expected` a service that polls as it should has read everything.
    """
    found = []
    for source in standing.standings(db):
        keeps_for = keeps.get(source.source)
        if keeps_for is not None:
            found += _of_source(db, source, keeps_for, expected, now)
    return found


def is_expiring(gap: Gap, *, keeps_for: Millis, now: Millis) -> bool:
    """Whether GitLab is about to forget it."""
    return gap.closable_until is not None and gap.closable_until - now < keeps_for / EXPIRING


def _of_source(db: Database, source: Standing, keeps_for: Millis, expected: Millis, now: Millis) -> list[Gap]:
    end = expected if source.watched_until is None else min(expected, source.watched_until)
    watched = Interval(source.watched_since, end)
    if watched.start >= watched.end:
        return []
    read = coverage.covered(db, source.project_id, source.source)
    forgotten = Millis(now - keeps_for)
    found = []
    for gap in coverage.gaps(read, watched):
        lost = Interval(gap.start, min(gap.end, forgotten))
        if lost.start < lost.end:
            found.append(_gap(source, lost, "too old", None))
        left = Interval(max(gap.start, forgotten), gap.end)
        if left.start < left.end:
            found.append(_gap(source, left, _why(db, source, left, watched), Millis(left.start + keeps_for)))
    return found


def _gap(source: Standing, during: Interval, why: str, closable_until: Millis | None) -> Gap:
    error = source.error if why == source.trouble else None
    return Gap(source.project_id, source.source, during, why, error, closable_until)


def _why(db: Database, source: Standing, gap: Interval, watched: Interval) -> str:
    if source.trouble is not None and gap.end >= watched.end:
        return source.trouble
    if downtime.downtimes(db, gap):
        return "down"
    return source.trouble or "not read yet"
