"""What the forwarder runs instead of an outbox for a destination whose consumer fetches its events."""

from __future__ import annotations

import asyncio

from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind, close
from reconciler.forwarding.waiting import Waiting
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue.destinations import DestinationState


class Pulled:
    """Wakes the consumers that wait. What they fetch is made where they ask for it (see `pulling`), in any copy of
    the service.
    """

    def __init__(
        self, state: DestinationState, *, ledger: Ledger, formatter: Formatter, kind: Kind, waiting: Waiting
    ) -> None:
        self.stopping = asyncio.Event()
        self._id = state.id
        self._name = state.name
        self._ledger = ledger
        self._formatter = formatter
        self._kind = kind
        self._waiting = waiting

    async def run(self) -> None:
        """Wait for `stop`."""
        await self._ledger.queue.begin_pull(self._id)
        self.wake()
        await self.stopping.wait()

    def wake(self) -> None:
        """A delivery was opened."""
        self._waiting.opened([self._id])

    def look_again(self, state: DestinationState) -> None:
        """The ledger may have changed: consumers that wait look themselves."""

    def stop(self) -> None:
        """End."""
        self.stopping.set()

    async def close(self) -> None:
        """Release what was built for it."""
        await asyncio.to_thread(self._formatter.close)
        await close(self._kind, self._name)
