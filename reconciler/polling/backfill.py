"""Reading a range of the past: every source of a project, what is not covered yet, in several parts at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import reduce

import msgspec
from sqlite_utils import Database

from reconciler.config.models import Reconcile
from reconciler.events import times
from reconciler.events.times import DAY, Millis
from reconciler.ledger.coverage import intervals
from reconciler.ledger.coverage.gaps import gaps
from reconciler.ledger.coverage.intervals import Interval
from reconciler.ledger.errors import LedgerError
from reconciler.polling.counts import Tally
from reconciler.polling.parts import Reconciling
from reconciler.sources.errors import NoHook, Refused, SourceError, Stopped
from reconciler.sources.project_events import ProjectEvents
from reconciler.sources.source import Project, Slice, Source
from reconciler.sources.webhook_payload import explain

PART = 60 * DAY
"""A longer stretch is cut, and its parts are read at the same time. Each cut costs reading a day or two twice."""


class Report(msgspec.Struct):
    """What became of one project. `sources`: what reading each came to; `skipped`: those that GitLab does not let us
    read, and why.
    """

    project: str
    sources: dict[str, Tally] = {}
    skipped: dict[str, str] = {}
    error: str | None = None

    @property
    def tally(self) -> Tally:
        """What reading all of them came to."""
        return reduce(Tally.plus, self.sources.values(), Tally())


class Planned(msgspec.Struct, frozen=True):
    """One stretch of one source that is to be read."""

    source: Source
    window: Interval


Progress = Callable[[str, Slice, Report], None]
"""Called with the source and each slice of it that was taken, and with what the project has come to."""


class Backfill:
    """Reads ranges of projects' pasts; at most `reconcile.concurrency` parts at a time, over all projects."""

    def __init__(self, parts: Reconciling, config: Reconcile, *, db: Database, dry_run: bool = False) -> None:
        self._parts = parts
        self._concurrency = config.concurrency
        self._db = db
        self._slots = asyncio.Semaphore(config.concurrency)
        self._dry_run = dry_run

    async def project(
        self,
        name: int | str,
        wanted: Interval | None,
        begin: Callable[[str, int], Progress],
    ) -> Report:
        """Read what of a range is not covered; without a range, every gap that can still be closed.

        `begin` is called with the project's path and with how many milliseconds there are to read. Never raises:
        what went wrong is in the report, and the other sources are read all the same.
        """
        report = Report(str(name))
        try:
            project = await self._parts.projects.find(name)
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
        except Exception as error:  # one project's trouble must not end the others
            report.error = explain(error)
        return report

    async def _plan(self, name: int | str, project: Project, wanted: Interval | None) -> list[Planned]:
        """The source that has GitLab's own bodies comes first, so that nothing need be rebuilt."""
        hooks = await self._parts.keeper.look(project)
        sources = self._parts.poller.sources_of(name, project, hooks)
        now, newest = times.now(), self._parts.poller.newest()
        if wanted is None:
            keeps = {source.name: source.keeps_for for source in sources}
            by_name = {source.name: source for source in sources}
            open_ones = gaps(self._db, keeps=keeps, expected=newest, now=now)
            mine = [gap for gap in open_ones if gap.project_id == project.id and not gap.is_final]
            return [Planned(by_name[gap.source], gap.during) for gap in mine]
        planned = []
        for source in sources:
            window = Interval(max(wanted.start, Millis(now - source.keeps_for)), min(wanted.end, newest))
            read_before = [] if self._dry_run else intervals.covered(self._db, project.id, source.name)
            planned += [
                Planned(source, gap) for gap in intervals.gaps(read_before, window) if window.start < window.end
            ]
        return planned

    async def _read(
        self, project: Project, source: Source, windows: list[Interval], report: Report, progress: Progress
    ) -> None:
        """Read a source's windows, in parts at the same time; what one can't read, the others may."""
        parts = [part for window in windows for part in cut(window, self._concurrency)]
        results = await asyncio.gather(
            *(self._part(project, source, part, report, progress) for part in parts), return_exceptions=True
        )
        for result in results:
            if isinstance(result, Refused | NoHook) and source.name != ProjectEvents.name:
                report.skipped[source.name] = str(result)
            elif isinstance(result, SourceError | LedgerError) and not isinstance(result, Stopped):
                report.error = report.error or str(result)
            elif isinstance(result, Exception) and not isinstance(result, Stopped):
                report.error = report.error or explain(result)
            elif isinstance(result, BaseException):
                raise result

    async def _part(
        self, project: Project, source: Source, window: Interval, report: Report, progress: Progress
    ) -> None:
        shown = Tally()

        def show(part: Slice, tally: Tally) -> None:
            """Add to the source's tally what this part has come to since it was last shown."""
            nonlocal shown
            tally.known = max(0, tally.seen - tally.new)
            before = report.sources.get(source.name, Tally())
            report.sources[source.name] = Tally(
                seen=before.seen + tally.seen - shown.seen,
                known=before.known + tally.known - shown.known,
                new=before.new + tally.new - shown.new,
                requests=before.requests + tally.requests - shown.requests,
                unreadable=before.unreadable + tally.unreadable - shown.unreadable,
            )
            shown = msgspec.structs.replace(tally)
            progress(source.name, part, report)

        async with self._slots:
            await self._parts.reader.read(
                project, source, window, purpose="backfill", progress=show, dry_run=self._dry_run
            )


def cut(window: Interval, most: int) -> list[Interval]:
    """A long window in up to `most` parts of the same length; a short one whole."""
    length = window.end - window.start
    parts = max(1, min(most, length // PART))
    edges = [Millis(window.start + length * n // parts) for n in range(parts)] + [window.end]
    return [Interval(start, end) for start, end in itertools.pairwise(edges)]
