"""The API as a part of the admin port's app. What it is made of takes a second to import and much memory: that
happens when it is first used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from reconciler.api.stream import Listeners
from reconciler.config.models import Config
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger.views.unknowns import Known
from reconciler.polling.backfill_jobs import BackfillJobs


class Api:
    """The ASGI app of the API. The parameters are those of `dashboard.app.dashboard_app`."""

    def __init__(
        self,
        current: Callable[[], Config],
        known: Callable[[], Known],
        stream: Listeners,
        backfills: BackfillJobs,
        pulls: Pulls,
        trouble: Callable[[], str | None],
    ) -> None:
        self._given = current, known, stream, backfills, pulls, trouble
        self._lock = threading.Lock()
        self._made: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (made := self._made) is None:
            made = await run_in_threadpool(self._make)
        await made(scope, receive, send)

    def _make(self) -> ASGIApp:
        with self._lock:
            if self._made is None:
                from reconciler.api.app import api_app
                from reconciler.api.service import Service

                made = api_app(Service(*self._given))
                made.openapi()  # it takes a while too
                self._made = made
            return self._made
