"""The single writer of a service: many changes share one transaction (group commit), and none waits for a timer.

Everything that is submitted during a commit goes into the next one, so batches grow with the load. Statements run on
the event loop's thread. Only the COMMIT runs on a thread of its own: it releases the interpreter lock while it writes
and syncs, so the loop can read the next requests meanwhile (docs/benchmarks.md has the figures). Nothing else may use
this connection: between a batch's first statement and its commit, it sees changes that are not on disk yet.
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

from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.ledger.errors import ChangeFailed, LedgerDamaged, LedgerUnavailable
from reconciler.ledger.listener import Committed, Listener
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import BatchResult, record
from reconciler.ledger.reminder import Reminder
from reconciler.ledger.storage.connection import explain, is_busy, is_damage, is_of_search_index, is_trouble
from reconciler.ledger.storage.damage import note_damage
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.explaining import is_postgresql

T = TypeVar("T")
Reported = TypeVar("Reported")

BATCH_SIGHTINGS = 128
"""At most so many sightings share one commit, which limits how long the event loop is blocked."""

BUSY_PATIENCE_S = 5.0
"""How long changes wait for another process's write lock before they fail with LedgerUnavailable."""
BUSY_PAUSE_S = 0.01

log = structlog.get_logger(__name__)


class _Change:
    """A change that waits to be written: sightings to record, a function of the database, or both."""

    __slots__ = ("alone", "future", "records", "run", "sightings", "since", "writes")

    def __init__(
        self,
        future: asyncio.Future[Any],
        sightings: Sequence[Sighting] | None,
        run: Callable[[Database], Any] | None,
    ) -> None:
        self.future = future
        self.records = sightings is not None
        """Whether its result is what became of its sightings."""
        self.sightings = sightings or ()
        self.run = run
        self.since = time.monotonic()
        self.writes = True
        self.alone = False
        """Whether it needs a transaction of its own, since it may have made an earlier one fail."""


class _Written(msgspec.Struct, frozen=True):
    """A batch whose statements have run, and their results."""

    batch: list[_Change]
    result: BatchResult
    results: list[Any]
    began: float


class Writer:
    """Group commit over one connection. Use it from the event loop that created it.

    New events open deliveries according to `routes`, which may be changed at any time. `disk` runs the commits; by
    default a thread of its own.
    """

    def __init__(
        self,
        db: Database,
        *,
        routes: Sequence[Route] = (),
        listener: Listener | None = None,
        disk: Executor | None = None,
    ) -> None:
        self.listener = listener or Listener()
        self.damage: str | None = None
        """What is known about damage to the ledger's file. It stays for as long as the service runs."""
        self.routes = routes
        self._db = db
        self._trouble: str | None = None
        self._reminder = Reminder()
        self._bugs: set[str] = set()
        self._db.set_patience(0)  # waiting is done without stopping the event loop
        self._waiting: deque[_Change] = deque()
        self._scheduled = False
        self._committing: _Written | None = None
        self._disk = disk or ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._loop = asyncio.get_running_loop()

    def record(
        self, sightings: Sequence[Sighting], *, also: Callable[[Database], None] | None = None
    ) -> asyncio.Future[BatchResult]:
        """Record sightings, and make another change in the same transaction. The future is done when all is on disk.

        It fails with LedgerUnavailable if the ledger can't be written, and with ChangeFailed if these sightings can't
        be recorded.
        """
        return self._submit(_Change(self._loop.create_future(), sightings, also))

    def ask(self, question: Callable[[Database], T]) -> asyncio.Future[T]:
        """As `run`, for what writes nothing: it does not prove that the ledger can be written."""
        change = _Change(self._loop.create_future(), None, question)
        change.writes = False
        return self._submit(change)

    def run(self, change: Callable[[Database], T]) -> asyncio.Future[T]:
        """Run `change` in the next transaction. The future holds its result once the transaction is on disk.

        It fails with LedgerUnavailable if the ledger can't be written, and with ChangeFailed if `change` raised
        anything else. `change` may run more than once, each time in a new transaction, so it must change nothing but
        the database. Only the ledger's own operations call this.
        """
        return self._submit(_Change(self._loop.create_future(), None, change))

    def report_damage(self, error: BaseException) -> None:
        """Look at an error that was met. If the file is damaged, `/readyz` says so and the next start checks it.

        Damage to the search index is ignored here: no event needs it, and the part that fills it reports it.
        """
        if self.damage is not None or not is_damage(error) or is_of_search_index(error):
            return
        self.damage = reason = _reason(error)
        log.error("the ledger's file is damaged", reason=reason)
        _report(self.listener.damage, reason)
        self.run(lambda db: note_damage(db, reason)).add_done_callback(lambda noted: noted.exception())

    @property
    def is_held(self) -> bool:
        """Whether no other process can have taken the ledger over."""
        return self._db.is_held

    def report_opened(self, deliveries: list[Opened]) -> None:
        """Report deliveries that a change opened, once it is on disk."""
        _report(self.listener.opened, deliveries)

    def report_recorded(self, done: Committed) -> None:
        """Report sightings that a change recorded, once it is on disk."""
        _report(self.listener.committed, done)

    async def close(self) -> None:
        """Wait until everything that was submitted is on disk or has failed, then end the thread."""
        while pending := self._unfinished():
            await asyncio.wait(pending)
        self._disk.shutdown()

    def _unfinished(self) -> list[asyncio.Future[Any]]:
        changes = [*self._waiting, *(self._committing.batch if self._committing else [])]
        return [change.future for change in changes if not change.future.done()]

    def _submit(self, change: _Change) -> asyncio.Future[Any]:
        self._waiting.append(change)
        self._schedule()
        return change.future

    def _schedule(self) -> None:
        """Flush once everything that is ready now has been submitted, or after the commit that is going on."""
        if self._waiting and not self._scheduled and self._committing is None:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch = self._take_batch()
        try:
            written = self._write(batch)
            committing = self._loop.run_in_executor(self._disk, self._db.commit)
        except Exception as error:  # whatever it is, each change's future must get it
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
        if self._db.in_transaction:  # a rollback failed before
            self._db.rollback()
        self._db.begin()
        sightings = [s for change in batch for s in change.sightings]
        result = record(self._db, sightings, now=times.now(), routes=self.routes)
        results = [change.run(self._db) if change.run else None for change in batch]
        return _Written(batch, result, results, began)

    def _committed(self, written: _Written, committing: asyncio.Future[None]) -> None:
        self._committing = None
        error = committing.exception()
        if error is not None:
            self._give_up(written.batch, error)
            return
        if self._trouble is not None and any(change.writes for change in written.batch):
            self._note_trouble(None)
        position = 0
        for change, result in zip(written.batch, written.results, strict=True):
            end = position + len(change.sightings)
            if not change.future.done():
                change.future.set_result(_share(written, position, end) if change.records else result)
            position = end
        if written.result.opened:
            _report(self.listener.opened, written.result.opened)
        if written.result.recorded:
            sightings = [sighting for change in written.batch for sighting in change.sightings]
            took = time.monotonic() - written.began
            _report(self.listener.committed, Committed(sightings, written.result.recorded, took))
        # Last, so that whoever waited for this commit continues before the next one: a reload sets its routes.
        self._schedule()

    def _give_up(self, batch: list[_Change], error: BaseException) -> None:
        """The batch's transaction failed: undo it, and try again where that can help."""
        try:
            if self._db.in_transaction:
                self._db.rollback()
        except (self._db.Error, LedgerUnavailable) as also:
            log.error("a rollback failed", reason=_reason(also))
        if is_busy(error) and not self._out_of_patience(batch):
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
            self.report_damage(error)
        else:
            self._note_bug(reason, error)
        for change in batch:
            if not change.future.done():
                change.future.set_exception(_failure(reason, error))

    def _note_trouble(self, reason: str | None) -> None:
        """Log a problem when it begins, while it lasts, and when it is over."""
        before, self._trouble = self._trouble, reason
        if self._reminder.is_due(reason):
            if reason is None:
                log.info("the ledger can be written again")
            else:
                log.error("the ledger can't be written", reason=reason)
        if reason != before:
            _report(self.listener.trouble, reason)

    def _note_bug(self, reason: str, error: BaseException) -> None:
        """Log a bug with its traceback the first time, and in one line after that."""
        kind = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1:]}"
        first = kind not in self._bugs
        self._bugs.add(kind)
        log.error("a change of the ledger failed", reason=reason[:500], exc_info=error if first else None)


def _concerns_all(error: BaseException) -> bool:
    """Whether an error would affect every change."""
    return isinstance(error, LedgerUnavailable) or (is_trouble(error) and not is_damage(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, LedgerUnavailable):
        return str(error)
    is_database_s = isinstance(error, sqlite3.Error) or is_postgresql(error)
    return explain(error) if is_database_s else f"{type(error).__name__}: {error}"


def _failure(reason: str, error: BaseException) -> Exception:
    """The exception for a change's future: one object for each, as each gets its own traceback."""
    kind = LedgerUnavailable if _concerns_all(error) else LedgerDamaged if is_damage(error) else ChangeFailed
    failure = kind(reason)
    failure.__cause__ = error
    return failure


def _report(method: Callable[[Reported], None], what: Reported) -> None:
    """Call a listener's method. An exception there must not reach the ledger."""
    try:
        method(what)
    except Exception:
        log.exception("a listener of the ledger's writer failed")


def _share(written: _Written, start: int, end: int) -> BatchResult:
    """The part of a batch's result that belongs to one change's sightings."""
    if len(written.batch) == 1:
        return written.result
    mine = written.result.recorded[start:end]
    return BatchResult(mine, [], sum(one.new_event for one in mine))
