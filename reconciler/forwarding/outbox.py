"""Delivers one destination's deliveries: picks the lanes that are due, and attempts the first delivery of each.

The backlog stays in the ledger: it is asked for the next deliveries when a slot is free. Pauses, rates and due
times use the steady clock; the times that people see of an attempt are the wall clock's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import msgspec
import structlog

from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.times import Millis, SteadyClock
from reconciler.forwarding.breaker import CircuitBreaker
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind, attempt
from reconciler.forwarding.outcome import Outcome, classify, classify_message_error
from reconciler.forwarding.rate import SendRate
from reconciler.forwarding.retry import longest_pause
from reconciler.ledger.errors import LedgerError, LedgerUnavailable
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue.deliveries import Attempt, Queued
from reconciler.ledger.queue.destinations import GONE, DestinationState

LEDGER_PAUSE_S = 1.0
LONGEST_LEDGER_PAUSE_S = 600.0
LOOK_S = 5.0
"""How often the ledger is read even without a notification, so that a missed one delays no delivery for longer."""

log = structlog.get_logger(__name__)


class Watcher(Protocol):
    """Is notified of attempts: for alerts, metrics and traces."""

    def attempting(self, event_id: str, destination: str, number: int) -> AbstractContextManager[dict[str, str]]:
        """The context of one attempt. It yields headers that are sent with it."""

    def trouble(self) -> None:
        """Something was recorded that may need an alert."""

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """An attempt was recorded. `outcome` is `delivered` or the error's class; `waited` is the time since the
        delivery was opened, None where it was not delivered.
        """


class Outbox:
    """Delivers one destination's deliveries until it is stopped. If `run` raises, it may be run again."""

    def __init__(
        self,
        destination: Destination,
        state: DestinationState,
        *,
        ledger: Ledger,
        formatter: Formatter,
        kind: Kind,
        watcher: Watcher,
        clock: SteadyClock,
    ) -> None:
        self.destination_id = state.id
        self.stopping = asyncio.Event()
        self._destination = destination
        self._ledger = ledger
        self._queue = ledger.queue
        self._formatter = formatter
        self._kind = kind
        self._watcher = watcher
        self._clock = clock
        self._breaker = CircuitBreaker(destination, state.breaker, now=clock())
        self._rate = SendRate(destination.rate_limit)
        self._paused = state.paused_at is not None
        self._is_gone = False
        """Whether the destination answered 410 and the ledger does not have that yet."""
        self._resumes = state.resumes
        self._busy: set[str] = set()
        """The lanes with an attempt in flight."""
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = log.bind(destination=destination.name)

    def wake(self) -> None:
        """A delivery was opened."""
        self._woken.set()

    def look_again(self, state: DestinationState) -> None:
        """The ledger may have changed: this destination may be paused or resumed, and other deliveries may be due."""
        was_paused, self._paused = self._paused, state.paused_at is not None
        if self._paused and not was_paused:
            self._log.info("destination paused", why=state.paused_why)
        if state.resumes != self._resumes:
            self._resumes = state.resumes
            self._breaker.take_over(state.breaker)
            self._log.info("destination resumed")
        self.wake()

    async def run(self) -> None:
        """Deliver until `stop`; then return when the attempts in flight have ended."""
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
        """Start no more attempts."""
        self.stopping.set()
        self.wake()

    async def close(self) -> None:
        """Cancel the attempts in flight (they are retried after the next start) and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._formatter.close)  # it may wait for a process to start or to end
        try:
            await self._kind.close()
        except (Exception, SystemExit) as error:  # it is discarded anyway
            self._log.warning("connections did not close cleanly", error=repr(error))

    async def _pull_back(self) -> None:
        """Correct due times that lie too far ahead because the wall clock was set back since they were recorded."""
        longest, now = longest_pause(self._destination.retry), self._clock()
        more = True
        while more and not self.stopping.is_set():
            more = await self._queue.pull_back(self.destination_id, longest=longest, now=now)

    def _turn(self) -> float:
        """Start all attempts that may start now. Returns the seconds to wait before the next look.

        `now` is read once: what becomes due meanwhile is left to the next look.
        """
        now = self._clock()
        while not (self._paused or self._is_gone) and (room := self._breaker.room):
            pause = max(self._breaker.wait(now), self._rate.wait(now))
            if pause:
                return min(pause / 1000, LOOK_S)
            if not self._start_some(room, now):
                due = self._queue.next_due(self.destination_id, after=now)
                return LOOK_S if due is None else min((due - now) / 1000, LOOK_S)
        return LOOK_S

    def _start_some(self, room: int, now: Millis) -> bool:
        """Start the first delivery of each lane that is due; False where none is."""
        heads = self._queue.next_lanes(self.destination_id, now=now, limit=room + len(self._busy))
        free = [one for one in heads if one.lane not in self._busy]
        for head in free:
            if not self._breaker.may_start(now) or self._rate.wait(now):
                break
            self._start(head, now)
        return bool(free)

    def _start(self, head: Queued, now: Millis) -> None:
        self._busy.add(head.lane)
        self._rate.take(now)
        task = asyncio.create_task(self._attempt_and_record(head, self._breaker.started()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt_and_record(self, head: Queued, generation: int) -> None:
        """Make one attempt and record its outcome; then the lane is free again."""
        try:
            outcome = await self._outcome(head)
            if outcome is not None:
                await self._apply(outcome, head, generation)
        except Exception:  # a bug of ours must not block the other lanes
            self._log.exception("outcome not recorded", event_id=head.event_id)
            await asyncio.sleep(LEDGER_PAUSE_S)
        finally:
            self._busy.discard(head.lane)
            self.wake()

    async def _outcome(self, head: Queued) -> Outcome | None:
        """Make an attempt and classify it; None where the ledger could not be read."""
        try:
            return await self._attempt(head)
        except LedgerError as error:  # the delivery stays pending
            self._breaker.gave_up()
            self._ledger.report_damage(error)
            self._log.error("attempt not made", event_id=head.event_id, error=str(error))
            await asyncio.sleep(LEDGER_PAUSE_S)
            return None
        except BaseException:
            self._breaker.gave_up()
            raise

    async def _attempt(self, head: Queued) -> Outcome:
        at = times.now()
        attempted = Attempt(head.event_id, self.destination_id, None, head.attempts + 1, at, at)
        try:
            event = self._queue.outgoing(head.event_id)
            message = await self._formatter.message_async(
                event, attempt=attempted.number, replays=head.replays, now=at
            )
        except LedgerError:
            raise
        except Exception as error:  # whatever it is, one event must not block the others
            return classify_message_error(self._destination.retry, head, attempted, error, now=self._clock())
        with self._watcher.attempting(message.id, self._destination.name, attempted.number) as headers:
            message.headers.update(headers)
            answer = await attempt(self._kind, message, timeout_s=self._destination.timeout / 1000)
        ended = msgspec.structs.replace(attempted, sighting_id=event.sighting_id, ended_at=times.now())
        return classify(self._destination.retry, head, answer, ended, now=self._clock())

    async def _apply(self, outcome: Outcome, head: Queued, generation: int) -> None:
        """Report an outcome to the breaker, the log and the ledger, with the change of the breaker, if any."""
        before = self._breaker.state
        self._report_to_breaker(outcome, generation)
        after = self._breaker.state
        self._log_outcome(outcome, before.state == "closed")
        tried = outcome.attempt
        if outcome.gone:
            self._is_gone = True
            self._log.warning("destination is gone (410): paused")
        settle = partial(
            self._queue.settle,
            tried,
            dead=outcome.is_dead,
            pause=outcome.pause,
            now=self._clock(),
            breaker=None if after == before else after,
            paused_why=GONE if outcome.gone else None,
        )
        await self._write(settle)
        if outcome.gone:
            self._paused, self._is_gone = True, False
        opened, closed = before.state == "closed" != after.state, after.state == "closed" != before.state
        if opened:
            self._log.warning("circuit breaker opened: destination is down", failures=after.failures)
        if closed:
            self._log.info("circuit breaker closed: destination is up")
        if opened or closed or outcome.gone or outcome.is_dead:
            self._watcher.trouble()
        waited = Millis(tried.ended_at - head.opened_at) if tried.error_class is None else None
        result = tried.error_class or "delivered"
        self._watcher.attempted(self._destination.name, result, Millis(tried.ended_at - tried.started_at), waited)

    def _report_to_breaker(self, outcome: Outcome, generation: int) -> None:
        at = outcome.attempt.ended_at
        if not outcome.destination_was_asked:
            self._breaker.gave_up()
        elif outcome.destination_works:
            self._breaker.succeeded(generation, at=at)
        else:
            self._breaker.failed(
                generation,
                now=self._clock(),
                at=at,
                retry_after=outcome.retry_after,
                counts=outcome.counts_against_destination,
            )

    def _log_outcome(self, outcome: Outcome, was_up: bool) -> None:
        tried = outcome.attempt
        about = self._log.bind(event_id=tried.event_id, status=tried.status, attempt=tried.number)
        if outcome.is_dead:
            about.warning(f"dead letter: {outcome.why}", error=tried.error)
        elif tried.error_class is None:
            about.debug("delivered")
        else:
            (about.warning if was_up else about.debug)(
                "attempt failed, will retry", error=tried.error, pause_ms=outcome.pause
            )

    async def _write(self, change: Callable[[], Awaitable[None]]) -> None:
        """Write an outcome to the ledger, however long that takes.

        A write that fails because of a bug of ours is retried with growing pauses. Its lane waits meanwhile, so that
        nothing is sent twice, at least until this outbox is stopped.
        """
        pause = LEDGER_PAUSE_S
        while True:
            try:
                await change()
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
