"""Takes and gives back destinations, so that the copies of a service share them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import structlog

from reconciler.forwarding.shares import shares
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.queue.operations import QueueOperations

LOOK_S = 1.0
"""How often a copy looks which destinations are free, and which it is to give back."""

log = structlog.get_logger(__name__)


class Outboxes(Protocol):
    """The outboxes of this copy, by the ids of their destinations."""

    def able(self) -> set[int]:
        """Those that could run here."""

    def there(self) -> set[int]:
        """Those that run, or are ending."""

    def start(self, destination_id: int) -> None:
        """Run one that could."""

    def end(self, destination_id: int) -> None:
        """Have one end, after its attempts in flight."""


class Sharing:
    """This copy's share of the destinations. `process` is what a person knows the copy by.

    It alone starts outboxes: no one else would know whether this copy still has the destination.
    """

    def __init__(self, queue: QueueOperations, outboxes: Outboxes, *, process: int) -> None:
        self._queue = queue
        self._outboxes = outboxes
        self._process = process
        self._wanted = asyncio.Event()
        self._is_over = False
        self._may_share = True

    async def run(self) -> None:
        """Look repeatedly. Never ends."""
        while True:
            self._wanted.clear()
            with contextlib.suppress(LedgerUnavailable):  # logged by the writer
                await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()

    def look_soon(self) -> None:
        """What could run here has changed, or an outbox has ended."""
        self._wanted.set()

    def leave(self) -> None:
        """Take no more, and give back what this copy has as soon as its outboxes have ended."""
        self._is_over = True
        self._wanted.set()

    async def _look(self) -> None:
        outboxes = self._outboxes
        found = await self._queue.note_copy(self._process, set() if self._is_over else outboxes.able())
        if found.may_share != self._may_share:
            self._may_share = found.may_share
            if found.may_share:
                log.info("this copy delivers its share again")
            else:
                why = "the worker, or the ledger's tables, are of another version"
                log.warning("this copy delivers nothing: it only receives", reason=why)
        able = {copy: sharer.destinations for copy, sharer in found.copies.items()} if found.may_share else {}
        keeps = {one for one, copy in shares(able, found.holders).items() if copy == found.own}
        has = {one for one, copy in found.holders.items() if copy == found.own}
        for one in outboxes.there() - keeps:
            outboxes.end(one)
        if given := has - keeps - outboxes.there():
            await self._queue.give_back(given)
        has &= keeps
        if free := keeps - found.holders.keys():
            has |= await self._queue.take(free)
        if not self._is_over:
            for one in (has & outboxes.able()) - outboxes.there():
                outboxes.start(one)
