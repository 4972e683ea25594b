"""Backfills as jobs of a running service: one at a time, with the client, and so the rate limit, of the polls."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from reconciler.config.models import Reconcile
from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.polling.backfill import Backfill, ProjectReport, plain
from reconciler.polling.backfill import Progress as Show
from reconciler.polling.projects import Projects
from reconciler.polling.reconciling import Reconciling
from reconciler.sources.errors import Stopped
from reconciler.sources.source import Slice
from reconciler.sources.webhook_payload import explain

log = structlog.get_logger(__name__)


class NotPossible(Exception):
    """A backfill can't begin now. The text says why, and what to do."""


class Asked(msgspec.Struct, frozen=True):
    """What a backfill is to read. Without `project`, all watched projects."""

    window: Interval
    project: int | str | None = None
    dry_run: bool = False


class _Job:
    """One backfill, as it goes on. Everything happens in the service's event loop."""

    def __init__(self, asked: Asked) -> None:
        began = times.now()
        self.ident = f"{began:011x}{secrets.token_hex(3)}"  # they sort by when they began: only the latest are kept
        self.state = "running"
        self.error: str | None = None
        self.groups: dict[str, str] = {}
        self.reports: dict[str, ProjectReport] = {}
        self._asked = asked
        self._began = times.iso(began)
        self._ended: str | None = None
        self._length, self._read = 0, 0

    def end(self, state: str, error: str | None = None) -> None:
        self.state, self.error, self._ended = state, error, times.iso(times.now())

    def begin(self, name: str, length: int) -> Show:
        """See `Backfill.project`."""
        self._length += length

        def show(_: str, part: Slice, report: ProjectReport) -> None:
            self._read += 0 if part.covered is None else part.covered.end - part.covered.start
            sources, skipped = dict(report.sources), dict(report.skipped)
            self.reports[name] = msgspec.structs.replace(report, sources=sources, skipped=skipped)

        return show

    @property
    def record(self) -> dict[str, Any]:
        """As the API shows it, and the ledger keeps it."""
        done = self._read / self._length if self._length else 0.0
        return {
            "id": self.ident,
            "state": self.state,
            "progress": 1.0 if self.state == "done" else round(min(1.0, done), 3),
            "from": times.iso(self._asked.window.start),
            "to": times.iso(self._asked.window.end),
            "project": None if self._asked.project is None else str(self._asked.project),
            "dry_run": self._asked.dry_run,
            "started_at": self._began,
            "finished_at": self._ended,
            "error": self.error,
            "groups_not_read": self.groups,
            "projects": [plain(report) for report in list(self.reports.values())],
        }


class BackfillJobs:
    """Starts backfills, and shows how far they are. `use` connects it with what the worker reads GitLab with."""

    def __init__(self) -> None:
        self._polling: Callable[[], Reconciling | None] = lambda: None
        self._ledger: Ledger | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._config: Callable[[], Reconcile] | None = None
        self._job: _Job | None = None
        self._task: asyncio.Task[None] | None = None

    async def use(
        self, ledger: Ledger, polling: Callable[[], Reconciling | None], config: Callable[[], Reconcile]
    ) -> None:
        """From now on, backfills can be started. Those of the worker before were interrupted."""
        await ledger.coverage.interrupt_backfills(times.now())
        self._ledger, self._polling, self._config = ledger, polling, config
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """End the one that is running. What it has read is kept."""
        self._loop = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # From any thread

    def start(self, asked: Asked) -> dict[str, Any]:
        """Start a backfill, and return how it begins. Raises NotPossible, LedgerError."""
        if (loop := self._loop) is None:
            raise NotPossible("this process does not read from GitLab now: it starts, stops, or another copy does")
        return asyncio.run_coroutine_threadsafe(self._start(asked), loop).result()

    def find(self, ident: str) -> dict[str, Any] | None:
        """A backfill that was started in this process last, as it is now."""
        job = self._job
        return job.record if job is not None and job.ident == ident else None

    # In the event loop

    async def _start(self, asked: Asked) -> dict[str, Any]:
        if self._job is not None and self._job.state == "running":
            raise NotPossible(f"the backfill {self._job.ident} is running: wait until it has ended")
        polling, ledger, config = self._polling(), self._ledger, self._config
        if polling is None or ledger is None or config is None:
            raise NotPossible("nothing is read from GitLab: this needs `gitlab.token`, and `projects` or `groups`")
        job = self._job = _Job(asked)
        try:
            await ledger.coverage.note_backfill(job.ident, job.record)
        except BaseException:
            job.end("failed")
            raise
        work = Backfill(polling, config(), ledger=ledger, dry_run=asked.dry_run)
        self._task = asyncio.create_task(_run(job, asked, work, polling.projects, ledger))
        return job.record


async def _run(job: _Job, asked: Asked, work: Backfill, projects: Projects, ledger: Ledger) -> None:
    log.info("backfill begins", id=job.ident, project=asked.project, dry_run=asked.dry_run)
    try:
        if asked.project is None:
            await projects.refresh_groups(only_unread=True)
            job.groups = {str(group): str(error) for group, error in projects.unread.items()}
        names = projects.names if asked.project is None else [asked.project]
        for report in await asyncio.gather(*(work.project(name, asked.window, job.begin) for name in names)):
            job.reports[report.project] = report
        failed = bool(job.groups) or any(report.error for report in job.reports.values())
        job.end("failed" if failed else "done")
    except (Stopped, asyncio.CancelledError):
        job.end("interrupted", "the service stopped, or its config was reloaded: what was read is kept")
    except Exception as error:  # whatever it is, the service goes on
        log.exception("backfill failed")
        job.end("failed", explain(error))
    log.info("backfill ended", id=job.ident, state=job.state)
    try:
        await ledger.coverage.note_backfill(job.ident, job.record)
    except LedgerError as error:
        log.warning("the end of a backfill was not noted", id=job.ident, error=str(error))
