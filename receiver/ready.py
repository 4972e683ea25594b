"""Checks whether webhooks can be written to disk, with at most one commit a second, however many requests come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

GOOD_FOR_S = 1.0


class SharedCheck:
    """Shares one check among all requests that arrive during it or within the next second. An error is shared too."""

    def __init__(self, check: Callable[[], Awaitable[object]], clock: Callable[[], float] = time.monotonic) -> None:
        self._check = check
        self._clock = clock
        self._answer: asyncio.Future[None] | None = None
        self._good_until = 0.0

    async def __call__(self) -> None:
        """Raises what `check` raises."""
        if self._answer is None or (self._answer.done() and self._clock() >= self._good_until):
            self._answer = asyncio.ensure_future(self._ask())
        await asyncio.shield(self._answer)

    async def _ask(self) -> None:
        try:
            await self._check()
        finally:
            self._good_until = self._clock() + GOOD_FOR_S
