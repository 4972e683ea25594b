"""All destinations together: each has its own outbox, so that none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog
from sqlite_utils import Database

from reconciler.config.models import Destination
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.outbox import Outbox
from reconciler.forwarding.sender import Sender
from reconciler.ledger.connection import ledger_id
from reconciler.ledger.record import Opened
from reconciler.ledger.writer import Writer

log = structlog.get_logger(__name__)


class Forwarder:
    """Runs an outbox for each destination. `ids` are the destinations' ids in the ledger, by name."""

    def __init__(
        self,
        destinations: Iterable[Destination],
        ids: Mapping[str, int],
        *,
        db: Database,
        writer: Writer,
        gitlab_url: str,
    ) -> None:
        own_id = ledger_id(db)
        self._stopped = asyncio.Event()
        self._outboxes = {
            ids[destination.name]: Outbox(
                destination,
                ids[destination.name],
                db=db,
                writer=writer,
                formatter=Formatter(destination, ledger_id=own_id, gitlab_url=gitlab_url),
                sender=Sender(destination),
            )
            for destination in destinations
        }

    def opened(self, deliveries: Iterable[Opened]) -> None:
        """Deliveries were opened by a commit of this process."""
        for delivery in deliveries:
            outbox = self._outboxes.get(delivery.destination_id)
            if outbox is not None:
                outbox.wake(delivery.lane)

    def look_again(self) -> None:
        """Another process may have opened deliveries."""
        for outbox in self._outboxes.values():
            outbox.look_again()

    async def run(self) -> None:
        """Deliver until `stop`; then return when what is in flight has ended."""
        await asyncio.gather(self._stopped.wait(), *(outbox.run() for outbox in self._outboxes.values()))

    def stop(self) -> None:
        """Start no more attempts."""
        self._stopped.set()
        for outbox in self._outboxes.values():
            outbox.stop()

    async def close(self) -> None:
        """Give up what is still in flight and close all connections."""
        for outbox in self._outboxes.values():
            await outbox.close()
