"""The scheduled jobs: they poll GitLab in every interval, and prune the ledger every hour."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from reconciler.config.models import Config, Retention
from reconciler.events import times
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.upkeep.prune import Keep
from reconciler.polling.reconciling import Reconciling
from reconciler.service.loops import prune
from reconciler.sources.client import Client
from reconciler.supervisor import Supervisor

log = structlog.get_logger(__name__)


class ScheduledJobs:
    """Runs the scheduled jobs. `apply` starts them, or restarts them with a new config.

    `build` makes what polls GitLab, as a config says. `recorded` waits for a while until the webhooks in the intake
    are recorded: GitLab's log would show the same ones with redacted bodies.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        build: Callable[[Config], Reconciling],
        recorded: Callable[[], Awaitable[object]],
        supervisor: Supervisor,
    ) -> None:
        self._ledger = ledger
        self._recorded = recorded
        self._build = build
        self._supervisor = supervisor
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._scheduler.start()
        self._polling: Reconciling | None = None
        self._catch_up: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client | None:
        """The client that asks GitLab; None if nothing is polled."""
        return None if self._polling is None else self._polling.client

    @property
    def polling(self) -> Reconciling | None:
        """What polls GitLab; None if nothing is polled."""
        return self._polling

    def prepare(self, config: Config) -> Reconciling | None:
        """Build what polls GitLab; None if the config asks for none. Nothing runs yet."""
        if config.gitlab.token is None or not (config.projects or config.groups):
            return None
        return self._build(config)

    def apply(self, polling: Reconciling | None, config: Callable[[], Config]) -> None:
        """Poll GitLab, beginning with every project. `config` returns the current config."""
        self._end()
        self._scheduler.remove_all_jobs()
        self._schedule(
            "prune",
            lambda: prune(self._ledger, keep(config().retention)),
            IntervalTrigger(hours=1, timezone=UTC),
            first=datetime.now(UTC) + timedelta(minutes=1),
        )
        self._polling = polling
        if polling is None:
            log.warning(
                "reconciliation is off: webhooks are recorded and forwarded, but missed events are not recovered",
                reason="no gitlab.token" if config().gitlab.token is None else "no projects",
            )
            self._supervisor.forget("polling")
            if config().projects or config().groups:
                self._supervisor.forget("catch-up")
            else:
                self._catch_up = self._supervisor.until_done("catch-up", self._unwatch_all)
            return
        every = IntervalTrigger(seconds=max(1, round(config().reconcile.interval / 1000)), timezone=UTC)
        # One job: each turn spreads its polls over the interval.
        begun = asyncio.Event()
        self._schedule("polling", lambda: self._turn(polling, begun), every)
        self._catch_up = self._supervisor.until_done("catch-up", lambda: self._begin(polling, begun))

    def stop(self) -> None:
        """Start no more jobs, and cancel the running ones: they run again after the next start."""
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

    async def _begin(self, polling: Reconciling, begun: asyncio.Event) -> None:
        """Read what was missed, once what was not missed is recorded."""
        await self._recorded()
        begun.set()
        await polling.schedule.catch_up()

    async def _turn(self, polling: Reconciling, begun: asyncio.Event) -> None:
        if begun.is_set():  # else everything is about to be polled
            await self._recorded()
            await polling.schedule.turn()

    def _end(self) -> None:
        if self._catch_up is not None:
            self._catch_up.cancel()
        if self._polling is not None:
            self._polling.stop()

    async def _unwatch_all(self) -> None:
        """Mark all sources as no longer watched."""
        await self._ledger.watchlist.set_names((), times.now())


def keep(retention: Retention) -> Keep:
    """The config's retention as the ledger's type."""
    return Keep(
        events=retention.events,
        dead_letters=retention.dead_letters,
        attempts=retention.attempts,
        runs=retention.runs,
    )
