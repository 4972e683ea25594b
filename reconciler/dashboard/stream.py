"""Events as they come, for browsers that listen (server-sent events)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from reconciler.ledger.browse import Filter, after
from reconciler.ledger.connection import opened

LOOK_S = 0.5
ALIVE_EVERY = 30
"""Looks between two signs of life, which keep proxies from closing a quiet stream."""
MOST_LISTENERS = 50
EVENTS_A_LOOK = 20
"""More at once than people can read: the rest are on the events page."""


class Stream:
    """All listeners. `stop` ends them, so that the service can end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listeners = 0
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """End every stream."""
        self._stopped.set()

    async def lines(self, last: int, row: Callable[[dict[str, Any]], str]) -> AsyncIterator[str]:
        """What a listener gets: each event after `last` as a row of a table, oldest first."""
        if self._listeners >= MOST_LISTENERS:
            yield "retry: 60000\n\n"
            return
        self._listeners += 1
        looks = 0
        try:
            yield "retry: 2000\n\n"
            while not self._stopped.is_set():
                for event in await run_in_threadpool(self._after, last):
                    last = event["id"]
                    text = str(row(event)).encode("utf-8", "replace").decode()
                    data = "".join(f"data: {line}\n" for line in text.splitlines())
                    yield f"id: {last}\nevent: event\n{data}\n"
                looks += 1
                if looks % ALIVE_EVERY == 0:
                    yield ": alive\n\n"
                try:
                    await asyncio.wait_for(self._stopped.wait(), LOOK_S)
                except TimeoutError:
                    continue
        finally:
            self._listeners -= 1

    def _after(self, last: int) -> list[dict[str, Any]]:
        with opened(self._path, readonly=True) as db:
            return after(db, Filter(), event_id=last, limit=EVENTS_A_LOOK)
