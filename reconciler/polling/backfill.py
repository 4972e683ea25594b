"""Backfill: reads a range of the past from every source of a project, as far as it is not covered yet."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import reduce
from typing import Any

import msgspec

from reconciler.config.models import Reconcile
from reconciler.events import times
from reconciler.events.intervals import Interval, uncovered
from reconciler.events.times import DAY, Millis
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.polling.counts import Counts
from reconciler.polling.reconciling import Reconciling
from reconciler.sources.errors import GitLabRefused, NoHook, SourceError, Stopped
from reconciler.sources.project_events import ProjectEvents
from reconciler.sources.source import Project, Slice, Source
from reconciler.sources.webhook_payload import explain

PIECE = 60 * DAY
"""A longer window is split, and its pieces are read concurrently. Each split costs reading a day or two twice."""


class ProjectReport(msgspec.Struct):
    """The result for one project. `sources` has the counts of each source. `skipped` has the sources that GitLab does
    not let us read, and why.
    """

    project: str
    sources: dict[str, Counts] = {}
    skipped: dict[str, str] = {}
    error: str | None = None

    @property
    def counts(self) -> Counts:
        """The counts of all sources together."""
        return reduce(Counts.plus, self.sources.values(), Counts())


class Planned(msgspec.Struct, frozen=True):
    """A window of a source that is to be read."""

    source: Source
    window: Interval


Progress = Callable[[str, Slice, ProjectReport], None]
"""Called after each slice with the source, the slice, and the project's report so far."""


class Backfill:
    """Reads ranges of projects' pasts. It plans at most `reconcile.concurrency` projects, or reads as many pieces of
    windows, at a time.
    """

    def __init__(self, polling: Reconciling, config: Reconcile, *, ledger: Ledger, dry_run: bool = False) -> None:
        self._polling = polling
        self._concurrency = config.concurrency
        self._coverage = ledger.coverage
        self._slots = asyncio.Semaphore(config.concurrency)
        self._dry_run = dry_run

    async def project(
        self,
        name: int | str,
        wanted: Interval | None,
        begin: Callable[[str, int], Progress],
    ) -> ProjectReport:
        """Read the part of a range that is not covered; without a range, every gap that can still be closed.

        `begin` is called with the project's path and the number of milliseconds to read. Errors are in the
        report, and the other sources are still read. Raises nothing but Stopped.
        """
        report = ProjectReport(str(name))
        try:
            async with self._slots:  # each request has a thread; released before `_read`, whose pieces take slots
                project = await self._polling.projects.find(name)
                report.project = project.path or report.project
                planned = await self._plan(name, project, wanted)
            progress = begin(report.project, sum(p.window.end - p.window.start for p in planned))
            for source in {p.source.name: p.source for p in planned}.values():
                windows = [p.window for p in planned if p.source is source]
                await self._read(project, source, windows, report, progress)
        except Stopped:
            raise
        except (SourceError, LedgerError) as error:
            report.error = str(error)
        except Exception as error:  # an error in one project must not end the others
            report.error = explain(error)
        return report

    async def _plan(self, name: int | str, project: Project, wanted: Interval | None) -> list[Planned]:
        """The source with GitLab's own bodies comes first, so that fewer bodies have to be rebuilt."""
        hooks = await self._polling.monitor.look(project)
        sources = self._polling.poller.sources_of(name, project, hooks)
        now, newest = times.now(), self._polling.poller.newest()
        if wanted is None:
            keeps = {source.name: source.keeps_for for source in sources}
            by_name = {source.name: source for source in sources}
            found = self._coverage.gaps(keeps=keeps, expected=newest, now=now, project_id=project.id)
            return [Planned(by_name[gap.source], gap.during) for gap in found if not gap.is_final]
        planned = []
        for source in sources:
            window = Interval(max(wanted.start, Millis(now - source.keeps_for)), min(wanted.end, newest))
            read_before = [] if self._dry_run else self._coverage.covered(project.id, source.name)
            planned += [Planned(source, gap) for gap in uncovered(read_before, window) if window.start < window.end]
        return planned

    async def _read(
        self, project: Project, source: Source, windows: list[Interval], report: ProjectReport, progress: Progress
    ) -> None:
        """Read a source's windows, in concurrent pieces. If one piece fails, the others go on."""
        pieces = [piece for window in windows for piece in cut(window, self._concurrency)]
        results = await asyncio.gather(
            *(self._read_piece(project, source, piece, report, progress) for piece in pieces), return_exceptions=True
        )
        for result in results:
            if isinstance(result, GitLabRefused | NoHook) and source.name != ProjectEvents.name:
                report.skipped[source.name] = str(result)
            elif isinstance(result, SourceError | LedgerError) and not isinstance(result, Stopped):
                report.error = report.error or str(result)
            elif isinstance(result, Exception) and not isinstance(result, Stopped):
                report.error = report.error or explain(result)
            elif isinstance(result, BaseException):
                raise result

    async def _read_piece(
        self, project: Project, source: Source, window: Interval, report: ProjectReport, progress: Progress
    ) -> None:
        shown = Counts()

        def show(found: Slice, counts: Counts) -> None:
            """Add what this piece has found since it was last shown to the source's counts."""
            nonlocal shown
            counts.known = max(0, counts.seen - counts.new)
            before = report.sources.get(source.name, Counts())
            report.sources[source.name] = Counts(
                seen=before.seen + counts.seen - shown.seen,
                known=before.known + counts.known - shown.known,
                new=before.new + counts.new - shown.new,
                requests=before.requests + counts.requests - shown.requests,
                unreadable=before.unreadable + counts.unreadable - shown.unreadable,
            )
            shown = msgspec.structs.replace(counts)
            progress(source.name, found, report)

        async with self._slots:
            await self._polling.reader.read(
                project, source, window, purpose="backfill", progress=show, dry_run=self._dry_run
            )


def cut(window: Interval, most: int) -> list[Interval]:
    """A long window in up to `most` pieces of equal length; a short one as it is."""
    length = window.end - window.start
    pieces = max(1, min(most, length // PIECE))
    edges = [Millis(window.start + length * n // pieces) for n in range(pieces)] + [window.end]
    return [Interval(start, end) for start, end in itertools.pairwise(edges)]


def plain(report: ProjectReport) -> dict[str, Any]:
    """A report as JSON has it."""
    return {
        "project": report.project,
        **_plain(report.counts),
        "sources": {source: _plain(counts) for source, counts in report.sources.items()},
        "skipped": report.skipped,
        "error": report.error,
    }


def _plain(counts: Counts) -> dict[str, int]:
    return {
        "seen": counts.seen,
        "already_known": counts.known,
        "new": counts.new,
        "requests": counts.requests,
        "unreadable": counts.unreadable,
    }
