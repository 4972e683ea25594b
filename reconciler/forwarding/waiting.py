"""Consumers that wait until something is pending for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

MOST = 50
"""How many may ask for events at a time. A few are enough: those of a destination get the same events."""


class TooMany(Exception):
    """Too many ask for events already."""


class Waiter:
    """A consumer that waits. Before it knows the id of its destination, whatever is opened wakes it."""

    def __init__(self) -> None:
        self.destination_id: int | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something for it."""
        self._woken.set()

    def clear(self) -> None:
        """It looks now: only what comes later is to wake it."""
        self._woken.clear()

    async def wait(self, seconds: float) -> None:
        """Wait until it is woken, but no longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()


class Waiting:
    """All consumers that wait at this copy of the service."""

    def __init__(self) -> None:
        self._waiters: set[Waiter] = set()
        self.is_over = False

    @contextlib.contextmanager
    def waiter(self) -> Iterator[Waiter]:
        """One more, for as long as the block lasts. Raises TooMany."""
        if len(self._waiters) >= MOST:
            raise TooMany(f"{MOST} requests for events are being answered: ask again later")
        one = Waiter()
        self._waiters.add(one)
        try:
            yield one
        finally:
            self._waiters.discard(one)

    def opened(self, destination_ids: Iterable[int]) -> None:
        """Deliveries were opened for these destinations."""
        ids = {None, *destination_ids}
        for one in self._waiters:
            if one.destination_id in ids:
                one.wake()

    def stop(self) -> None:
        """The service stops: nobody waits any longer."""
        self.is_over = True
        for one in self._waiters:
            one.wake()
