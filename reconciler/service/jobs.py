"""The APScheduler jobs: asking GitLab in every interval, and keeping the ledger small."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlite_utils import Database

from reconciler.config.models import Config, Retention
from reconciler.events import times
from reconciler.events.hook_tests import Expected
from reconciler.ledger.coverage import watched
from reconciler.ledger.intake.writer import Writer
from reconciler.ledger.upkeep.prune import Keep
from reconciler.polling.parts import Reconciling, reconciling
from reconciler.service.loops import prune
from reconciler.sources.client import Client
from reconciler.supervisor import Supervisor

log = structlog.get_logger(__name__)


class ScheduledJobs:
    """What is done by the clock. `apply` starts it, and starts it anew with other parts."""

    def __init__(
        self, *, db: Database, writer: Writer, expected_tests: set[Expected], supervisor: Supervisor
    ) -> None:
        self._db = db
        self._writer = writer
        self._expected_tests = expected_tests
        self._supervisor = supervisor
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._scheduler.start()
        self._parts: Reconciling | None = None
        self._healing: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client | None:
        """Who asks GitLab, if anybody does."""
        return None if self._parts is None else self._parts.client

    def prepare(self, config: Config) -> Reconciling | None:
        """Build what asks GitLab as a config says; None where nothing is to be asked. Nothing of it runs yet."""
        if config.gitlab.token is None or not (config.projects or config.groups):
            return None
        return reconciling(config, db=self._db, writer=self._writer, expected_tests=self._expected_tests)

    def apply(self, parts: Reconciling | None, config: Callable[[], Config]) -> None:
        """Ask GitLab with these parts, beginning with a poll of every project. `config` is the one that holds."""
        self._end()
        self._scheduler.remove_all_jobs()
        self._schedule(
            "prune",
            lambda: prune(self._writer, keep(config().retention)),
            IntervalTrigger(hours=1, timezone=UTC),
            first=datetime.now(UTC) + timedelta(minutes=1),
        )
        self._parts = parts
        if parts is None:
            log.warning(
                "reconciliation is off: webhooks are recorded and forwarded, but missed events are not recovered",
                why="no gitlab.token" if config().gitlab.token is None else "no projects",
            )
            self._supervisor.forget("polling")
            if config().projects or config().groups:
                self._supervisor.forget("healing")
            else:
                self._healing = self._supervisor.until_done("healing", self._watch_nothing)
            return
        every = IntervalTrigger(seconds=max(1, round(config().reconcile.interval / 1000)), timezone=UTC)
        # One job: a turn in every interval, which spreads its polls over it.
        self._schedule("polling", parts.rounds.turn, every)
        self._healing = self._supervisor.until_done("healing", parts.rounds.heal)

    def stop(self) -> None:
        """Start nothing more, and give up what is going on: the next start does it."""
        self._scheduler.shutdown(wait=False)
        self._end()

    def _schedule(
        self,
        name: str,
        run: Callable[[], Awaitable[object]],
        every: IntervalTrigger,
        *,
        first: datetime | None = None,
    ) -> None:
        more = {} if first is None else {"next_run_time": first}
        self._scheduler.add_job(
            self._supervisor.turn,
            every,
            args=[name, run],
            id=name,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
            **more,
        )

    def _end(self) -> None:
        if self._healing is not None:
            self._healing.cancel()
        if self._parts is not None:
            self._parts.stop()

    async def _watch_nothing(self) -> None:
        """What was in the config answers for nothing any more."""
        await self._writer.run(lambda db: watched.sync(db, (), times.now()))


def keep(retention: Retention) -> Keep:
    """The config's retention as the ledger knows it."""
    return Keep(
        events=retention.events,
        dead_letters=retention.dead_letters,
        attempts=retention.attempts,
        runs=retention.runs,
    )
