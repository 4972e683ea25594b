"""New events for everyone who follows them: what the API's stream and the dashboard's have in common."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import structlog
from starlette.concurrency import run_in_threadpool

from reconciler.ledger.errors import LedgerError
from reconciler.ledger.storage.connection import explain, look_at
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views.browse import last_id
from reconciler.ledger.views.news import News
from reconciler.location import Location

CHECK_INTERVAL_S = 0.5
PAUSE_S = 0.05
"""The pause after a look that found nothing and did not reach the newest event: a listener that resumes far back,
with a filter that matches little, must not keep the ledger busy.
"""
ALIVE_EVERY = 30
"""Looks between two keep-alive lines, which stop proxies from closing a quiet stream."""
MOST_LISTENERS = 50
BEGIN = "retry: 2000\n"
"""In how many milliseconds a client connects again."""
FULL = "retry: 60000\n\n"

log = structlog.get_logger(__name__)

Found = TypeVar("Found")
Look = Callable[[Database, int], News]
"""Reads what is new after an event."""


class Listeners:
    """The streams of all listeners. `stop` ends them, so that the service can stop. `trouble` returns why the file at
    the ledger's path must not be shown, if so.

    A listener holds one look's events in memory: the next look is made when these were sent, so that a slow one costs
    no more.
    """

    def __init__(self, path: Location, trouble: Callable[[], str | None] = lambda: None) -> None:
        self._path = path
        self._trouble = trouble
        self._listeners = 0
        self._stopped = asyncio.Event()
        self._newest, self._looked_at = 0, float("-inf")
        self._looking = asyncio.Lock()

    def stop(self) -> None:
        """End every stream."""
        self._stopped.set()

    @property
    def is_full(self) -> bool:
        """Whether there are as many listeners as there may be."""
        return self._listeners >= MOST_LISTENERS

    async def follow(self, last: int, look: Look) -> AsyncGenerator[News | str | None, None]:
        """What one listener is to be sent, until `stop`: what is new after the event `last`; why the ledger can't be
        read, once; and None now and then, to keep the connection open.
        """
        self._listeners += 1
        looks, trouble = 0, ""
        try:
            while not self._stopped.is_set():
                before, trouble, pause = trouble, "", CHECK_INTERVAL_S
                try:
                    if await self._newest_id() > last:
                        found = await run_in_threadpool(self._look, look, last)
                        if found.more:
                            pause = 0.0 if found.events else PAUSE_S
                        if found.through > last:
                            last = found.through
                            yield found
                except (LedgerError, sqlite3.Error) as error:
                    trouble = explain(error) if isinstance(error, sqlite3.Error) else str(error)
                if trouble and trouble != before:
                    log.error("event stream interrupted", reason=trouble)
                    yield trouble
                if not pause:
                    continue
                looks += 1
                if looks % ALIVE_EVERY == 0:
                    yield None
                try:
                    await asyncio.wait_for(self._stopped.wait(), pause)
                except TimeoutError:
                    continue
        finally:
            self._listeners -= 1

    async def _newest_id(self) -> int:
        """The newest event's id, which all listeners ask for together."""
        async with self._looking:
            if time.monotonic() - self._looked_at >= CHECK_INTERVAL_S / 2:
                self._newest = await run_in_threadpool(self._look, _newest, 0)
                self._looked_at = time.monotonic()
            return self._newest

    def _look(self, look: Callable[[Database, int], Found], last: int) -> Found:
        with look_at(self._path, self._trouble) as db:
            return look(db, last)


def _newest(db: Database, _: int) -> int:
    return last_id(db)
