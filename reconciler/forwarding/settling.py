"""Writes the outcomes of a destination's attempts to the ledger. Those that are ready while a commit is in progress
share the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from reconciler.forwarding.breaker import CircuitBreaker
from reconciler.forwarding.outcome import Outcome
from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerUnavailable
from reconciler.ledger.queue.destinations import Breaker
from reconciler.ledger.queue.operations import QueueOperations, Settlement

LEDGER_PAUSE_S = 1.0
LONGEST_LEDGER_PAUSE_S = 600.0

log = structlog.get_logger(__name__)


class _Group:
    """Outcomes that are written together. It takes more until its transaction begins."""

    def __init__(self, outcomes: Sequence[Outcome] = ()) -> None:
        self.outcomes = list(outcomes)
        self.breaker: Breaker | None = None
        """The breaker's state that is written with them, if the ledger has another one."""
        self.written: asyncio.Future[None] | None = None
        """The change of the ledger that has been handed over, done or not."""


class Settling:
    """Writes outcomes, however long that takes.

    `settled` is called with outcomes that are on disk, or were given up because the outbox stops, and with whether
    the breaker's state was written too.
    """

    def __init__(
        self,
        queue: QueueOperations,
        destination_id: int,
        breaker: CircuitBreaker,
        *,
        settled: Callable[[Sequence[Outcome], bool], None],
        stopping: asyncio.Event,
    ) -> None:
        self.noted: Breaker = breaker.state
        """The circuit breaker's state as the ledger has it."""
        self._queue = queue
        self._destination_id = destination_id
        self._breaker = breaker
        self._settled = settled
        self._stopping = stopping
        self._open: _Group | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Write these outcomes, and the breaker's state if it has changed."""
        if self._open is None:
            self._open = _Group()
            self._start(self._open)
        self._open.outcomes += outcomes

    async def wait(self) -> None:
        """Wait until everything is written or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Stop waiting. What was handed to the ledger is still written, if it can be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, group: _Group) -> None:
        task = asyncio.create_task(self._write(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, group: _Group) -> None:
        try:
            await self._write_patiently(group)
        except asyncio.CancelledError:  # in a pause after a failure, or before it is known whether it is written
            if group.written is not None:
                group.written.add_done_callback(partial(_log_if_failed, group))
            raise

    async def _write_patiently(self, group: _Group) -> None:
        """Write a group. If that fails because of a bug or of damage, each lane is written on its own, so
        that one does not hold up the others, and retried with growing pauses: a lane waits, so that nothing is sent
        twice.
        """
        pause = LEDGER_PAUSE_S
        while True:
            try:
                settlement = partial(self._settlement, group)
                written = asyncio.ensure_future(self._queue.settle(self._destination_id, settlement))
                group.written = written
                await asyncio.shield(written)
            except LedgerError as error:
                if isinstance(error, LedgerUnavailable) and not isinstance(error, LedgerDamaged):
                    await asyncio.sleep(LEDGER_PAUSE_S)
                    continue
                group.breaker = None
                if self._stopping.is_set():
                    _log_if_failed(group, written)
                    break
                lanes = _by_lane(group.outcomes)
                if len(lanes) > 1:
                    for outcomes in lanes:
                        self._start(_Group(outcomes))
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
                pause = min(2 * pause, LONGEST_LEDGER_PAUSE_S)
            else:
                if group.breaker is not None:
                    self.noted = group.breaker
                break
        try:
            self._settled(group.outcomes, group.breaker is not None)
        except Exception:  # a bug must not end the outbox
            log.exception("outcomes not reported")

    def _settlement(self, group: _Group) -> Settlement:
        """What a group writes. From the first call on it takes no more outcomes.

        Each group includes a change of the breaker's state until that is on disk: any group may fail.
        """
        if self._open is group:
            self._open = None
        state = self._breaker.state
        gone = [one.attempt.ended_at for one in group.outcomes if one.gone]
        group.breaker = None if state == self.noted else state
        return Settlement(
            [one.settled for one in group.outcomes],
            breaker=group.breaker,
            gone_at=gone[0] if gone else None,
        )


def _log_if_failed(group: _Group, written: asyncio.Future[None]) -> None:
    """These events are sent again after the next start."""
    if (error := written.exception()) is not None:
        log.error("outcomes not recorded", events=len(group.outcomes), error=str(error))


def _by_lane(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    lanes: defaultdict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        lanes[one.queued.lane].append(one)
    return list(lanes.values())
