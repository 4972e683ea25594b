"""The dashboard and the metrics. They read the ledger through connections of their own, so they can show it before
this process may write to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reconciler.config.models import Config
from reconciler.dashboard.app import dashboard_app
from reconciler.dashboard.stream import Stream
from reconciler.forwarding.pulling import Pulls
from reconciler.metrics.collectors import LedgerCollector, PartsCollector
from reconciler.metrics.meters import Meters
from reconciler.polling.backfill_jobs import BackfillJobs
from reconciler.polling.knowledge import SharedLook
from reconciler.service.admin import AdminServer, serve_metrics
from reconciler.service.receiver_counts import ReceiverCounts
from reconciler.sources.client import Client
from reconciler.supervisor import Supervisor


class Views:
    """`current` is the config, and `trouble` says why the ledger at its place is not the one that is open. `counts`
    are those of the receiver, if it has the same parent.
    """

    def __init__(
        self,
        current: Callable[[], Config],
        trouble: Callable[[], str | None],
        *,
        supervisor: Supervisor,
        counts: ReceiverCounts | None,
    ) -> None:
        self.known = SharedLook(current, trouble, supervisor.parts)
        self.meters = Meters()
        self.backfills = BackfillJobs()
        self.pulls = Pulls(current)
        self.client: Callable[[], Client | None] = lambda: None
        """GitLab's API, once it is used."""
        self._current = current
        self._trouble = trouble
        self._supervisor = supervisor
        self._counts = counts
        self._admin: AdminServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._has_started = False

    def start(self) -> None:
        """Open their ports, unless that was done before."""
        if self._has_started:
            return
        self._has_started = True
        config, registry, start = self._current(), self.meters.registry, self._supervisor.start
        registry.register(LedgerCollector(lambda: (self._current(), self.client()), self.known, self._trouble))
        registry.register(PartsCollector(self._supervisor.parts))
        if self._counts is not None:
            registry.register(self._counts)
        if config.admin.port is not None:
            stream = Stream(config.ledger.location, self._trouble)
            app = dashboard_app(
                self._current,
                known=self.known,
                stream=stream,
                pulls=self.pulls,
                trouble=self._trouble,
                backfills=self.backfills,
            )
            self._admin = AdminServer(config.admin.host, config.admin.port, app, stream)
            self._tasks.append(start("dashboard", self._admin.run))
        if (port := config.metrics.port) is not None:
            self._tasks.append(start("metrics", lambda: serve_metrics(config.metrics.host, port, registry)))

    async def stop(self) -> None:
        """Answer what is being asked, and close the ports."""
        self.pulls.waiting.stop()
        try:
            await asyncio.to_thread(self.pulls.close)
            if self._admin is not None:
                await self._admin.stop()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
