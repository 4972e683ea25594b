"""The one writer of a service: many changes share one transaction, and no change waits for a timer.

Everything that became ready while the last commit was on its way to the disk goes into the next one: the
batch grows with the load by itself. The commit runs on the event loop's own thread, on purpose: handing it to
a thread costs more in the interpreter's lock than the loop gains (docs/benchmarks.md has the figures).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.ledger.connection import explain, is_busy, transaction
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.record import Opened, Outcome, record

T = TypeVar("T")

BATCH_SIGHTINGS = 128
"""How many sightings share one commit at most: bounds how long the event loop is away."""

BUSY_PATIENCE_S = 5.0
"""How long changes wait while another process holds the write lock, before they fail as unavailable."""
BUSY_PAUSE_S = 0.01

log = structlog.get_logger(__name__)


class _Change:
    """Something waiting to be written: sightings to record, or a function of the database."""

    __slots__ = ("future", "run", "sightings", "since")

    def __init__(
        self,
        future: asyncio.Future[Any],
        sightings: Sequence[Sighting],
        run: Callable[[Database], Any] | None,
    ) -> None:
        self.future = future
        self.sightings = sightings
        self.run = run
        self.since = time.monotonic()


class Writer:
    """Group commit over one connection. Use it from the event loop that made it.

    `on_opened` is called after each commit with the deliveries that it opened; without `forward` new events
    open none.
    """

    def __init__(self, db: Database, *, forward: bool = True) -> None:
        self.on_opened: Callable[[list[Opened]], None] | None = None
        self._forward = forward
        self.waiting_sightings = 0
        self._db = db
        self._db.execute("PRAGMA busy_timeout = 0")  # waiting is done without stopping the event loop
        self._waiting: deque[_Change] = deque()
        self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def record(self, sightings: Sequence[Sighting]) -> asyncio.Future[Outcome]:
        """Record sightings; the future is done when they are on disk.

        It fails with LedgerUnavailable when they can't be written.
        """
        self.waiting_sightings += len(sightings)
        return self._submit(sightings, None)

    def run(self, change: Callable[[Database], T]) -> asyncio.Future[T]:
        """Run `change` inside the next transaction; the future holds what it returned, once it is on disk.

        `change` may run more than once (each time in a new transaction), and must only touch the database.
        """
        return self._submit((), change)

    async def drain(self) -> None:
        """Wait until everything submitted so far is on disk or has failed."""
        while self._waiting:
            await asyncio.wait([change.future for change in self._waiting])

    def _submit(self, sightings: Sequence[Sighting], run: Callable[[Database], Any] | None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(_Change(future, sightings, run))
        self._schedule()
        return future

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch = self._take_batch()
        try:
            self._commit(batch)
        except sqlite3.OperationalError as error:
            if is_busy(error) and time.monotonic() - batch[0].since < BUSY_PATIENCE_S:
                self._wait_for_lock(batch)
                return
            self._fail(batch, error)
        except sqlite3.DatabaseError as error:
            self._fail(batch, error)
        except Exception as error:  # a change that can't be written must not take the others with it
            self._commit_each(batch, error)
        if self._waiting:
            self._schedule()

    def _take_batch(self) -> list[_Change]:
        batch: list[_Change] = []
        sightings = 0
        while self._waiting and sightings < BATCH_SIGHTINGS:
            change = self._waiting.popleft()
            sightings += len(change.sightings)
            batch.append(change)
        return batch

    def _commit(self, batch: list[_Change]) -> None:
        sightings = [s for change in batch for s in change.sightings]
        with transaction(self._db) as db:
            outcome = (
                record(db, sightings, now=times.now(), forward=self._forward) if sightings else Outcome([], [], 0)
            )
            results = [change.run(db) if change.run is not None else None for change in batch]
        self.waiting_sightings -= len(sightings)
        position = 0
        for change, result in zip(batch, results, strict=True):
            if change.run is None:
                mine = outcome.recorded[position : position + len(change.sightings)]
                position += len(change.sightings)
                founded = sum(one.new_event for one in mine) if len(batch) > 1 else outcome.founded
                result = Outcome(mine, [], founded)  # noqa: PLW2901
            if not change.future.cancelled():
                change.future.set_result(result)
        if outcome.opened and self.on_opened is not None:
            self.on_opened(outcome.opened)

    def _commit_each(self, batch: list[_Change], error: Exception) -> None:
        if len(batch) == 1:
            log.error("a change can't be written", error=str(error), exc_info=error)
            self._fail(batch, error)
            return
        for change in batch:
            try:
                self._commit([change])
            except Exception as own_error:
                log.error("a change can't be written", error=str(own_error), exc_info=own_error)
                self._fail([change], own_error)

    def _wait_for_lock(self, batch: list[_Change]) -> None:
        self._waiting.extendleft(reversed(batch))
        self._scheduled = True
        self._loop.call_later(BUSY_PAUSE_S, self._flush)

    def _fail(self, batch: list[_Change], error: Exception) -> None:
        reason = explain(error) if isinstance(error, sqlite3.Error) else str(error)
        if isinstance(error, sqlite3.Error):
            log.error("the ledger can't be written", reason=reason, changes=len(batch))
        for change in batch:
            self.waiting_sightings -= len(change.sightings)
            if not change.future.cancelled():
                change.future.set_exception(LedgerUnavailable(reason))
