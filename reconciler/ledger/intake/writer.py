"""The one writer of a service: many changes share one transaction, and no change waits for a timer.

Everything that became ready while one commit was on its way to the disk goes into the next: the batch grows
with the load by itself. Statements run on the event loop's thread; only the COMMIT, which holds no interpreter
lock while it writes and syncs, runs on a thread of its own, so that the loop reads the next requests meanwhile
(docs/benchmarks.md has the figures). Nobody else may use this connection: between a batch's first statement
and its commit it sees what is not on disk yet.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.ledger.errors import ChangeFailed, LedgerDamaged, LedgerUnavailable
from reconciler.ledger.intake.record import BatchResult, Recorded, record
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage.connection import Ledger, commit, explain, is_busy, is_damage, is_of_words, is_trouble
from reconciler.ledger.storage.damage import note_damage

T = TypeVar("T")
Told = TypeVar("Told")

BATCH_SIGHTINGS = 128
"""How many sightings share one commit at most: bounds how long the event loop is away."""

BUSY_PATIENCE_S = 5.0
"""How long changes wait while another process holds the write lock, before they fail as unavailable."""
BUSY_PAUSE_S = 0.01

REMIND_S = 60.0
"""How often a trouble of the ledger that lasts is logged again."""

log = structlog.get_logger(__name__)


class _Change:
    """Something waiting to be written: sightings to record, or a function of the database."""

    __slots__ = ("alone", "future", "run", "sightings", "since")

    def __init__(
        self, future: asyncio.Future[Any], sightings: Sequence[Sighting], run: Callable[[Database], Any] | None
    ) -> None:
        self.future = future
        self.sightings = sightings
        self.run = run
        self.since = time.monotonic()
        self.alone = False
        """Whether it must have a transaction of its own: it may be what spoilt one before."""


class _Written(msgspec.Struct, frozen=True):
    """A batch whose statements have run, and what they came to."""

    batch: list[_Change]
    outcome: BatchResult
    results: list[Any]
    began: float


class Committed(msgspec.Struct, frozen=True):
    """Sightings that are on disk, what became of each, and how long their commit took."""

    sightings: list[Sighting]
    recorded: list[Recorded]
    seconds: float


class Writer:
    """Group commit over one connection. Use it from the event loop that made it.

    `on_opened` is called after each commit with the deliveries that it opened, `on_committed` after one with
    sightings, by who measures; `on_trouble` with what is wrong with the ledger when it can't be written, and with
    None when it can again; `on_damage` once, when a damaged part of its file is met. New events open deliveries by
    `routes`, which may be changed at any time. `disk` runs the commits; default: a thread of its own.
    """

    def __init__(self, db: Ledger, *, routes: Sequence[Route] = (), disk: Executor | None = None) -> None:
        self.on_opened: Callable[[list[Opened]], None] | None = None
        self.on_committed: Callable[[Committed], None] | None = None
        self.on_trouble: Callable[[str | None], None] | None = None
        self.on_damage: Callable[[str], None] | None = None
        self.damage: str | None = None
        """What is known of damage to the ledger's file. It does not pass while the service runs."""
        self.routes = routes
        self.waiting_sightings = 0
        self._db = db
        self._trouble: str | None = None
        self._logged_at = 0.0
        self._bugs: set[str] = set()
        self._db.execute("PRAGMA busy_timeout = 0")  # waiting is done without stopping the event loop
        self._waiting: deque[_Change] = deque()
        self._scheduled = False
        self._committing: _Written | None = None
        self._disk = disk or ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._loop = asyncio.get_running_loop()

    def record(self, sightings: Sequence[Sighting]) -> asyncio.Future[BatchResult]:
        """Record sightings; the future is done when they are on disk.

        It fails with LedgerUnavailable when the ledger can't be written, with ChangeFailed where these sightings
        can't be recorded.
        """
        self.waiting_sightings += len(sightings)
        return self._submit(sightings, None)

    def run(self, change: Callable[[Database], T]) -> asyncio.Future[T]:
        """Run `change` inside the next transaction; the future holds what it returned, once it is on disk.

        It fails with LedgerUnavailable when the ledger can't be written, with ChangeFailed where `change` raised
        something else. `change` may run more than once (each time in a new transaction), and must only touch the
        database.
        """
        return self._submit((), change)

    def damaged(self, error: BaseException) -> None:
        """Somebody met an error. Where it tells of a damaged file, `/readyz` says so too, and the next start looks
        into it. Damage of the index of words, which no event needs, is its part's alone.
        """
        if self.damage is not None or not is_damage(error) or is_of_words(error):
            return
        self.damage = reason = _reason(error)
        log.error("the ledger's file is damaged", reason=reason)
        _tell(self.on_damage, reason)
        self.run(lambda db: note_damage(db, reason)).add_done_callback(lambda noted: noted.exception())

    async def close(self) -> None:
        """Wait until everything submitted is on disk or has failed, and end the thread."""
        while pending := self._unfinished():
            await asyncio.wait(pending)
        self._disk.shutdown()

    def _unfinished(self) -> list[asyncio.Future[Any]]:
        changes = [*self._waiting, *(self._committing.batch if self._committing else [])]
        return [change.future for change in changes if not change.future.done()]

    def _submit(self, sightings: Sequence[Sighting], run: Callable[[Database], Any] | None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(_Change(future, sightings, run))
        self._schedule()
        return future

    def _schedule(self) -> None:
        """Flush when everything that is ready now has been submitted; after a commit where one is going on."""
        if self._waiting and not self._scheduled and self._committing is None:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch = self._take_batch()
        try:
            written = self._write(batch)
            committing = self._loop.run_in_executor(self._disk, commit, self._db)
        except Exception as error:  # whatever it is, each change's future must hear of it
            self._give_up(batch, error)
        else:
            self._committing = written
            committing.add_done_callback(partial(self._committed, written))

    def _take_batch(self) -> list[_Change]:
        batch = [self._waiting.popleft()]
        sightings = len(batch[0].sightings)
        while self._waiting and sightings < BATCH_SIGHTINGS and not (batch[0].alone or self._waiting[0].alone):
            change = self._waiting.popleft()
            sightings += len(change.sightings)
            batch.append(change)
        return batch

    def _write(self, batch: list[_Change]) -> _Written:
        began = time.monotonic()
        if self._db.conn.in_transaction:  # a rollback failed before
            self._db.conn.execute("ROLLBACK")
        self._db.conn.execute("BEGIN IMMEDIATE")
        sightings = [s for change in batch for s in change.sightings]
        outcome = record(self._db, sightings, now=times.now(), routes=self.routes)
        results = [change.run(self._db) if change.run else None for change in batch]
        return _Written(batch, outcome, results, began)

    def _committed(self, written: _Written, committing: asyncio.Future[None]) -> None:
        self._committing = None
        error = committing.exception()
        if error is not None:
            self._give_up(written.batch, error)
            return
        if self._trouble is not None:
            self._note_trouble(None)
        position = 0
        for change, result in zip(written.batch, written.results, strict=True):
            end = position + len(change.sightings)
            self.waiting_sightings -= len(change.sightings)
            if not change.future.done():
                change.future.set_result(result if change.run else _share(written, position, end))
            position = end
        if written.outcome.opened:
            _tell(self.on_opened, written.outcome.opened)
        if written.outcome.recorded:
            sightings = [sighting for change in written.batch for sighting in change.sightings]
            took = time.monotonic() - written.began
            _tell(self.on_committed, Committed(sightings, written.outcome.recorded, took))
        # Last, so that who waited for this commit goes on before the next one: a reload sets its routes.
        self._schedule()

    def _give_up(self, batch: list[_Change], error: BaseException) -> None:
        """The batch's transaction failed: undo it, and try again where that can help."""
        try:
            if self._db.conn.in_transaction:
                self._db.conn.execute("ROLLBACK")
        except sqlite3.Error as also:
            log.error("a rollback failed", reason=explain(also))
        if isinstance(error, sqlite3.Error) and is_busy(error) and not self._out_of_patience(batch):
            self._waiting.extendleft(reversed(batch))
            self._scheduled = True
            self._loop.call_later(BUSY_PAUSE_S, self._flush)
            return
        if len(batch) > 1 and not _concerns_all(error):  # one change must not take the others with it
            for change in batch:
                change.alone = True
            self._waiting.extendleft(reversed(batch))
        else:
            self._fail(batch, error)
        self._schedule()

    @staticmethod
    def _out_of_patience(batch: list[_Change]) -> bool:
        return time.monotonic() - batch[0].since > BUSY_PATIENCE_S

    def _fail(self, batch: list[_Change], error: BaseException) -> None:
        reason = _reason(error)
        if _concerns_all(error):
            self._note_trouble(reason)
        elif is_damage(error):
            self.damaged(error)
        else:
            self._note_bug(reason, error)
        for change in batch:
            self.waiting_sightings -= len(change.sightings)
            if not change.future.done():
                change.future.set_exception(_failure(reason, error))

    def _note_trouble(self, reason: str | None) -> None:
        """Log a trouble when it begins, when it lasts, and when it is over."""
        now = time.monotonic()
        before, self._trouble = self._trouble, reason
        if reason is None:
            log.info("the ledger can be written again")
        elif reason != before or now - self._logged_at >= REMIND_S:
            self._logged_at = now
            log.error("the ledger can't be written", reason=reason)
        if reason != before:
            _tell(self.on_trouble, reason)

    def _note_bug(self, reason: str, error: BaseException) -> None:
        """Log a bug with its traceback the first time, in a line after that."""
        kind = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1:]}"
        first = kind not in self._bugs
        self._bugs.add(kind)
        log.error("a change of the ledger failed", reason=reason[:500], exc_info=error if first else None)


def _concerns_all(error: BaseException) -> bool:
    """Whether an error would meet every change alike."""
    return isinstance(error, LedgerUnavailable) or (is_trouble(error) and not is_damage(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, LedgerUnavailable):
        return str(error)
    return explain(error) if isinstance(error, sqlite3.Error) else f"{type(error).__name__}: {error}"


def _failure(reason: str, error: BaseException) -> Exception:
    """What a change's future hears: one object for each, as each gets a traceback of its own."""
    kind = LedgerUnavailable if _concerns_all(error) else LedgerDamaged if is_damage(error) else ChangeFailed
    failure = kind(reason)
    failure.__cause__ = error
    return failure


def _tell(listener: Callable[[Told], None] | None, what: Told) -> None:
    """Tell a listener; its trouble is not the ledger's."""
    if listener is None:
        return
    try:
        listener(what)
    except Exception:
        log.exception("a listener of the ledger's writer failed")


def _share(written: _Written, start: int, end: int) -> BatchResult:
    """What of a batch's outcome belongs to one change's sightings."""
    if len(written.batch) == 1:
        return written.outcome
    mine = written.outcome.recorded[start:end]
    return BatchResult(mine, [], sum(one.new_event for one in mine))
