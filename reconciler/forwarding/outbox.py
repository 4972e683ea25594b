"""One destination's way out of the ledger: takes the lanes whose turn it is, and sees each one's head through.

Nothing of the backlog is held in memory: what goes next is asked of the ledger when a slot is free. Pauses, rates
and due times go by the steady clock; what people read of an attempt goes by the wall clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import msgspec
import structlog
from sqlite_utils import Database

from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.times import Millis, SteadyClock
from reconciler.forwarding.breaker import CircuitBreaker
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind, attempt
from reconciler.forwarding.outcome import Verdict, judge, unwritable
from reconciler.forwarding.rate import RateLimit
from reconciler.forwarding.retry import longest_pause
from reconciler.ledger.alerts import GONE
from reconciler.ledger.errors import LedgerError, LedgerUnavailable
from reconciler.ledger.intake.writer import Writer
from reconciler.ledger.queue import deliveries, destinations
from reconciler.ledger.queue.deliveries import Queued
from reconciler.ledger.queue.destinations import Standing

LEDGER_PAUSE_S = 1.0
LONGEST_LEDGER_PAUSE_S = 600.0
LOOK_S = 5.0
"""How often the ledger is asked, notified or not: no delivery waits longer for a notification that was missed."""

log = structlog.get_logger(__name__)


class Watcher(Protocol):
    """Who is told what happens: for alerts, metrics and traces."""

    def attempting(self, event_id: str, destination: str, number: int) -> AbstractContextManager[dict[str, str]]:
        """An attempt goes on as long as the context lasts; what it yields are headers to send along."""

    def trouble(self) -> None:
        """Something was noted that an alert may be about."""

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """An attempt was noted: `outcome` is `taken`, or the error's class; `waited` is since the delivery was
        opened, where it was taken.
        """


class Outbox:
    """Delivers one destination's deliveries until told to stop. Where `run` raises, it may be run again."""

    def __init__(
        self,
        destination: Destination,
        standing: Standing,
        *,
        db: Database,
        writer: Writer,
        formatter: Formatter,
        kind: Kind,
        watcher: Watcher,
        clock: SteadyClock,
    ) -> None:
        self.destination_id = standing.id
        self.stopping = asyncio.Event()
        self._destination = destination
        self._db = db
        self._writer = writer
        self._formatter = formatter
        self._kind = kind
        self._watcher = watcher
        self._clock = clock
        self._breaker = CircuitBreaker(destination, standing.breaker, now=clock())
        self._rate = RateLimit(destination.rate_limit)
        self._paused = standing.paused_at is not None
        self._is_gone = False
        """Whether a 410 came that is not in the ledger yet."""
        self._resumes = standing.resumes
        self._busy: set[str] = set()
        """The lanes whose head is on its way."""
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = log.bind(destination=destination.name)

    def wake(self) -> None:
        """A delivery was opened."""
        self._woken.set()

    def look_again(self, standing: Standing) -> None:
        """The ledger may have changed: whether this destination is paused, whether it was resumed, what is due."""
        was_paused, self._paused = self._paused, standing.paused_at is not None
        if self._paused and not was_paused:
            self._log.info("paused: what comes is kept", why=standing.paused_why)
        if standing.resumes != self._resumes:
            self._resumes = standing.resumes
            self._breaker.take_over(standing.breaker)
            self._log.info("resumed")
        self.wake()

    async def run(self) -> None:
        """Deliver until `stop`; then return when what is in flight has ended."""
        await self._pull_back()
        while not self.stopping.is_set():
            self._woken.clear()
            pause = self._turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Start nothing more."""
        self.stopping.set()
        self.wake()

    async def close(self) -> None:
        """Give up what is in flight (it is tried again after the next start) and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._formatter.close)  # it may wait for a process to start, or to end
        try:
            await self._kind.close()
        except (Exception, SystemExit) as error:  # it is given up anyway
            self._log.warning("its connections did not close well", error=repr(error))

    async def _pull_back(self) -> None:
        """No retry waits longer than it should because the wall clock was set back since it was noted."""
        longest, now = longest_pause(self._destination.retry), self._clock()
        step = partial(deliveries.pull_back, destination_id=self.destination_id, longest=longest, now=now)
        while not self.stopping.is_set() and await self._writer.run(step):
            pass

    def _turn(self) -> float:
        """Start what may start. Returns after how many seconds to look again at the latest.

        All of it at one moment: what is not due at its beginning is not due at its end, but waited for.
        """
        now = self._clock()
        while not (self._paused or self._is_gone) and (room := self._breaker.room):
            pause = max(self._breaker.wait(now), self._rate.wait(now))
            if pause:
                return min(pause / 1000, LOOK_S)
            if not self._start_some(room, now):
                due = deliveries.next_due(self._db, self.destination_id, after=now)
                return LOOK_S if due is None else min((due - now) / 1000, LOOK_S)
        return LOOK_S

    def _start_some(self, room: int, now: Millis) -> bool:
        """Start the heads of the lanes whose turn it is; False where there is none."""
        heads = deliveries.next_lanes(self._db, self.destination_id, now=now, limit=room + len(self._busy))
        free = [one for one in heads if one.lane not in self._busy]
        for head in free:
            if not self._breaker.may_start(now) or self._rate.wait(now):
                break
            self._start(head, now)
        return bool(free)

    def _start(self, head: Queued, now: Millis) -> None:
        self._busy.add(head.lane)
        self._rate.take(now)
        task = asyncio.create_task(self._see_through(head, self._breaker.started()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, head: Queued, generation: int) -> None:
        """One attempt, and its outcome in the ledger; then the lane is free for its next."""
        try:
            verdict = await self._verdict(head)
            if verdict is not None:
                await self._settle(verdict, head, generation)
        except Exception:  # a fault of ours, which must not hold the others up
            self._log.exception("an outcome can't be noted", event_id=head.event_id)
            await asyncio.sleep(LEDGER_PAUSE_S)
        finally:
            self._busy.discard(head.lane)
            self.wake()

    async def _verdict(self, head: Queued) -> Verdict | None:
        """Make an attempt, and weigh what came of it; None where the ledger could not be read."""
        try:
            return await self._attempt(head)
        except sqlite3.Error as error:  # the event stays where it is
            self._breaker.gave_up()
            self._writer.damaged(error)
            self._log.error("an attempt can't be made", event_id=head.event_id, error=str(error))
            await asyncio.sleep(LEDGER_PAUSE_S)
            return None
        except BaseException:
            self._breaker.gave_up()
            raise

    async def _attempt(self, head: Queued) -> Verdict:
        at = times.now()
        tried = deliveries.Attempt(head.event_id, self.destination_id, None, head.attempts + 1, at, at)
        try:
            event = deliveries.outgoing(self._db, head.event_id)
            message = await self._formatter.written(event, attempt=tried.number, replays=head.replays, now=at)
        except sqlite3.Error:
            raise
        except Exception as error:  # whatever it is, this event must not hold the others up
            return unwritable(self._destination.retry, head, tried, error, now=self._clock())
        with self._watcher.attempting(message.id, self._destination.name, tried.number) as headers:
            message.headers.update(headers)
            answer = await attempt(self._kind, message, timeout_s=self._destination.timeout / 1000)
        ended = msgspec.structs.replace(tried, sighting_id=event.sighting_id, ended_at=times.now())
        return judge(self._destination.retry, head, answer, ended, now=self._clock())

    async def _settle(self, verdict: Verdict, head: Queued, generation: int) -> None:
        """Tell the breaker, the log and the ledger: the last two of a change of the breaker's too."""
        before = self._breaker.state
        self._tell_breaker(verdict, generation)
        after = self._breaker.state
        self._say(verdict, before.state == "closed")
        tried = verdict.attempt
        if verdict.gone:
            self._is_gone = True
            self._log.warning("the destination is gone (410): paused, what comes is kept")
        now = self._clock()

        def write(db: Database) -> None:
            verdict.write(db, now=now)
            if after != before:
                destinations.note_breaker(db, self.destination_id, after)
            if verdict.gone:
                destinations.pause(db, self.destination_id, GONE, now=tried.ended_at)

        await self._write(write)
        if verdict.gone:
            self._paused, self._is_gone = True, False
        opened, closed = before.state == "closed" != after.state, after.state == "closed" != before.state
        if opened:
            self._log.warning("the circuit breaker is open: the destination is down", failures=after.failures)
        if closed:
            self._log.info("the circuit breaker is closed: the destination takes events again")
        if opened or closed or verdict.gone or verdict.is_dead:
            self._watcher.trouble()
        waited = Millis(tried.ended_at - head.opened_at) if tried.error_class is None else None
        outcome = tried.error_class or "delivered"
        self._watcher.attempted(self._destination.name, outcome, Millis(tried.ended_at - tried.started_at), waited)

    def _tell_breaker(self, verdict: Verdict, generation: int) -> None:
        at = verdict.attempt.ended_at
        if not verdict.destination_was_asked:
            self._breaker.gave_up()
        elif verdict.destination_works:
            self._breaker.succeeded(generation, at=at)
        else:
            self._breaker.failed(
                generation,
                now=self._clock(),
                at=at,
                retry_after=verdict.retry_after,
                counts=verdict.counts_against_destination,
            )

    def _say(self, verdict: Verdict, was_up: bool) -> None:
        tried = verdict.attempt
        about = self._log.bind(event_id=tried.event_id, status=tried.status, attempt=tried.number)
        if verdict.is_dead:
            about.warning(f"dead letter: {verdict.why}", error=tried.error)
        elif tried.error_class is None:
            about.debug("delivered")
        else:
            (about.warning if was_up else about.debug)(
                "not taken, will try again", error=tried.error, pause_ms=verdict.pause
            )

    async def _write(self, change: Callable[[Database], None]) -> None:
        """The outcome must reach the ledger: wait as long as that takes.

        What can't be written because of a mistake of ours is tried ever more rarely: its lane waits, and is not sent
        twice, at least until this outbox is stopped.
        """
        pause = LEDGER_PAUSE_S
        while True:
            try:
                await self._writer.run(change)
            except LedgerUnavailable:
                await asyncio.sleep(LEDGER_PAUSE_S)
            except LedgerError:
                if self.stopping.is_set():
                    raise
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self.stopping.wait()
                pause = min(2 * pause, LONGEST_LEDGER_PAUSE_S)
            else:
                return
