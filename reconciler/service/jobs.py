"""The APScheduler jobs: asking GitLab in every interval, and keeping the ledger small."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlite_utils import Database

from reconciler.config.models import Config, Retention
from reconciler.events.hook_tests import Expected
from reconciler.ledger.prune import Keep
from reconciler.ledger.writer import Writer
from reconciler.reconcile.parts import Reconciling, reconciling
from reconciler.service.loops import prune
from reconciler.sources.client import Client

log = structlog.get_logger(__name__)


class Jobs:
    """What is done by the clock. `apply` starts it, and starts it anew with another config."""

    def __init__(self, *, db: Database, writer: Writer, expected_tests: set[Expected]) -> None:
        self._db = db
        self._writer = writer
        self._expected_tests = expected_tests
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._scheduler.start()
        self._parts: Reconciling | None = None
        self._healing: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client | None:
        """Who asks GitLab, if anybody does."""
        return None if self._parts is None else self._parts.client

    def apply(self, config: Config, current: Callable[[], Config]) -> None:
        """Ask GitLab as this config says, beginning with a poll of every project."""
        self._end()
        self._scheduler.remove_all_jobs()
        hourly, first = IntervalTrigger(hours=1, timezone=UTC), datetime.now(UTC) + timedelta(minutes=1)
        self._scheduler.add_job(self._prune, hourly, args=[current], id="prune", next_run_time=first)
        self._parts = self._reconciling(config)
        if self._parts is None:
            return
        every = IntervalTrigger(seconds=max(1, round(config.reconcile.interval / 1000)), timezone=UTC)
        # One job: a turn in every interval, which spreads its polls over it.
        self._scheduler.add_job(
            self._parts.rounds.turn, every, id="turn", max_instances=1, coalesce=True, misfire_grace_time=None
        )
        self._healing = asyncio.create_task(self._parts.rounds.heal())

    def stop(self) -> None:
        """Start nothing more, and give up what is going on: the next start does it."""
        self._scheduler.shutdown(wait=False)
        self._end()

    def _end(self) -> None:
        if self._healing is not None:
            self._healing.cancel()
        if self._parts is not None:
            self._parts.stop()

    async def _prune(self, current: Callable[[], Config]) -> None:
        await prune(self._writer, keep(current().retention))

    def _reconciling(self, config: Config) -> Reconciling | None:
        watches = config.projects or config.groups
        if config.gitlab.token is None or not watches:
            log.warning(
                "nothing is reconciled: webhooks are recorded and forwarded, but what they miss is not looked for",
                why="no gitlab.token" if config.gitlab.token is None else "no projects",
            )
            return None
        return reconciling(config, db=self._db, writer=self._writer, expected_tests=self._expected_tests)


def keep(retention: Retention) -> Keep:
    """The config's retention as the ledger knows it."""
    return Keep(
        events=retention.events,
        dead_letters=retention.dead_letters,
        attempts=retention.attempts,
        runs=retention.runs,
    )
