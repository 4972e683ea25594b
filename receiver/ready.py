"""Checks whether webhooks can be written to disk, with at most one commit a second, however many ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

GOOD_FOR_S = 1.0


class SharedCheck:
    """Shares one check among all who ask at the same time or within the next second. An error is shared too."""

    def __init__(self, prove: Callable[[], Awaitable[object]], clock: Callable[[], float] = time.monotonic) -> None:
        self._prove = prove
        self._clock = clock
        self._answer: asyncio.Future[None] | None = None
        self._good_until = 0.0

    async def __call__(self) -> None:
        """Raises what `prove` raises."""
        if self._answer is None or (self._answer.done() and self._clock() >= self._good_until):
            self._answer = asyncio.ensure_future(self._ask())
        await asyncio.shield(self._answer)

    async def _ask(self) -> None:
        try:
            await self._prove()
        finally:
            self._good_until = self._clock() + GOOD_FOR_S
