"""Reading the past into the ledger: which windows a poll or a backfill must read, and what coverage that earns."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import msgspec
import structlog
from sqlite_utils import Database

from reconciler.config.models import Reconcile
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger import coverage, runs
from reconciler.ledger.coverage import Interval
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.record import rehearse
from reconciler.ledger.runs import Run
from reconciler.ledger.writer import BATCH_SIGHTINGS, Writer
from reconciler.sources.client import Client
from reconciler.sources.errors import SourceError, Stopped
from reconciler.sources.source import Project, Slice, Source

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Tally(msgspec.Struct):
    """What reading came to. `seen` and `known` count sightings, `new` events, `requests` what GitLab was asked."""

    seen: int = 0
    known: int = 0
    new: int = 0
    requests: int = 0
    error: str | None = None

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            seen=self.seen + other.seen,
            known=self.known + other.known,
            new=self.new + other.new,
            requests=self.requests + other.requests,
            error=self.error or other.error,
        )


class Reconciler:
    """Reads projects' pasts through one source. At most `config.parallel` projects are read at a time."""

    def __init__(self, config: Reconcile, *, client: Client, source: Source, db: Database, writer: Writer) -> None:
        self._config = config
        self._client = client
        self._source = source
        self._db = db
        self._writer = writer
        self._slots = asyncio.Semaphore(config.parallel)
        self._projects: dict[int | str, Project] = {}
        self._polling: set[int | str] = set()

    async def poll(self, name: int | str) -> Tally | None:
        """Read what happened to a project since the last covered time, downtime included.

        None where a poll of this project is still going on. Never raises: what went wrong is logged, noted in
        the ledger and returned, and the next poll begins where coverage ends.
        """
        if name in self._polling:
            return None
        self._polling.add(name)
        try:
            async with self._slots:
                return await self._poll(name)
        except Stopped:
            return None
        except (SourceError, LedgerUnavailable) as error:
            log.warning("a project can't be polled", project=name, error=str(error))
            await self._note_failure(name, str(error))
            return Tally(error=str(error))
        except Exception as error:  # one project's trouble must not end the others' polls
            log.exception("a poll failed in an unforeseen way", project=name)
            return Tally(error=str(error))
        finally:
            self._polling.discard(name)

    async def read(
        self,
        project: Project,
        window: Interval,
        *,
        purpose: str,
        progress: Callable[[Slice, Tally], None] | None = None,
        dry_run: bool = False,
    ) -> Tally:
        """Read a window into the ledger, slice by slice; coverage grows with each slice that is recorded.

        Raises SourceError or LedgerUnavailable; what was covered until then stays covered. With `dry_run`
        GitLab is asked and nothing is written.
        """
        tally = Tally()
        started_at = times.now()
        slices = self._source.read(project, window)
        try:
            while (part := await self._in_thread(lambda: next(slices, None))) is not None:
                tally.seen += len(part.sightings)
                tally.requests += part.requests
                if dry_run:
                    outcome = await self._writer.run(partial(rehearse, sightings=part.sightings, now=times.now()))
                    tally.new += outcome.founded
                else:
                    await self._take(project, part, tally)
                if progress is not None:
                    progress(part, tally)
        except (SourceError, LedgerUnavailable) as error:
            tally.error = str(error)
            raise
        finally:
            tally.known = max(0, tally.seen - tally.new)
            if not dry_run:
                await self._note(project, window, purpose, started_at, tally)
        if purpose == "backfill" or tally.new:
            log.info("a window was read", project=project.path or project.id, purpose=purpose, new=tally.new)
        return tally

    async def project(self, name: int | str) -> Project:
        """The project of a configured id or path; GitLab is asked once, and the ledger remembers its path."""
        known = self._projects.get(name)
        if known is None:
            known = await self._in_thread(lambda: self._client.project(name))
            found = known
            await self._writer.run(lambda db: runs.note_path(db, found.id, str(found.path)))
            self._projects[name] = known
        return known

    def newest(self) -> Millis:
        """Up to when reading makes sense: what is younger than the settle time may still be on its way.

        Told by GitLab's clock where that is behind ours: coverage that ran ahead of GitLab's own time would hide
        what is still to happen.
        """
        return times.now() - self._client.behind - self._config.settle

    def stop(self) -> None:
        """End all reading; what a thread waits for is given up."""
        self._client.stop()

    async def _poll(self, name: int | str) -> Tally:
        project = await self.project(name)
        until = self.newest()
        since = runs.watched_since(self._db, project.id)
        if since is None:
            since = until - self._config.overlap
            await self._writer.run(lambda db: runs.watch(db, project.id, since))
        covered = coverage.covered(self._db, project.id, self._source.name)
        tally = Tally()
        for gap in coverage.gaps(covered, Interval(since, until)):
            window = Interval(max(since, gap.start - self._config.overlap), gap.end)
            tally = tally.plus(await self.read(project, window, purpose="poll"))
        return tally

    async def _take(self, project: Project, part: Slice, tally: Tally) -> None:
        """Record a slice, then (not before all of it is on disk) its coverage."""
        for start in range(0, len(part.sightings), BATCH_SIGHTINGS):
            outcome = await self._writer.record(part.sightings[start : start + BATCH_SIGHTINGS])
            tally.new += outcome.founded
        await self._writer.run(lambda db: coverage.cover(db, project.id, self._source.name, part.covered))

    async def _note(self, project: Project, window: Interval, purpose: str, started_at: Millis, tally: Tally) -> None:
        run = Run(
            project_id=project.id,
            source=self._source.name,
            purpose=purpose,
            window_from=window.start,
            window_through=window.end,
            started_at=started_at,
            finished_at=times.now(),
            seen=tally.seen,
            known=tally.known,
            new=tally.new,
            requests=tally.requests,
            error=tally.error,
        )
        try:
            await self._writer.run(lambda db: runs.note_run(db, run))
        except LedgerUnavailable:
            log.warning("a run can't be noted in the ledger", project=project.id)

    async def _note_failure(self, name: int | str, error: str) -> None:
        """A project that can't be reached at all has its error noted where `status` finds it."""
        known = self._projects.get(name)
        project_id = known.id if known is not None else name
        if isinstance(project_id, int):
            with contextlib.suppress(LedgerUnavailable):
                await self._writer.run(lambda db: runs.note_failure(db, project_id, error, times.now()))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking call in a thread that a stop need not wait for: it only ever reads from GitLab."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(cast(T, result)) if error is None else future.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=run, name="gitlab", daemon=True).start()
        return await future
