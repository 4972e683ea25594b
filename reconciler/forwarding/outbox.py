"""Delivers one destination's deliveries: picks the lanes that are due, and attempts the first delivery of each.

The backlog stays in the ledger: it is asked for the next deliveries when a slot is free. Pauses, rates and due
times use the steady clock; the times that people see of an attempt are the wall clock's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

import structlog

from reconciler.config.destinations import Destination
from reconciler.events.times import Millis, SteadyClock
from reconciler.forwarding.breaker import CircuitBreaker
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind, close
from reconciler.forwarding.lanes import LOOK, DueLanes
from reconciler.forwarding.outcome import Outcome
from reconciler.forwarding.rate import SendRate
from reconciler.forwarding.retry import longest_pause
from reconciler.forwarding.sending import ALONE_AFTER, Sender, together, verdict
from reconciler.forwarding.settling import LEDGER_PAUSE_S, Settling
from reconciler.forwarding.watcher import Watcher
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue.deliveries import Ready
from reconciler.ledger.queue.destinations import DestinationState

CHECK_INTERVAL_S = LOOK / 1000
MOST_BYTES = 4 * 1024 * 1024
"""Roughly how much payload is read at once, and how much a batch has, unless a single event is larger."""

log = structlog.get_logger(__name__)


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
        self._ledger = ledger
        self._queue = ledger.queue
        self._retry = destination.retry
        self._name = destination.name
        self._batch = destination.batching
        self._formatter = formatter
        self._kind = kind
        self._watcher = watcher
        self._clock = clock
        self._sender = Sender(
            destination,
            state.id,
            formatter=formatter,
            kind=kind,
            watcher=watcher,
            clock=clock,
            is_stopping=self.stopping.is_set,
        )
        self._breaker = CircuitBreaker(destination, state.breaker, now=clock())
        self._rate = SendRate(destination.rate_limit)
        self._lanes = DueLanes(self._queue, state.id)
        self._settling = Settling(self._queue, state.id, self._breaker, settled=self._settled, stopping=self.stopping)
        self._paused = state.paused_at is not None
        self._is_gone = False
        """Whether the destination answered 410 and that is not in the ledger yet."""
        self._resumes = state.resumes
        self._waits_since: Millis | None = None
        """Since when a batch that is not full has been waiting for more events."""
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = log.bind(destination=destination.name)

    def wake(self) -> None:
        """A delivery was opened."""
        self._lanes.opened()
        self._woken.set()

    def look_again(self, state: DestinationState) -> None:
        """The ledger may have changed: this destination may be paused or resumed, and other deliveries may be due."""
        was_paused, self._paused = self._paused, state.paused_at is not None
        if self._paused and not was_paused:
            self._log.info("destination paused", reason=state.paused_why)
        if state.resumes != self._resumes:
            self._resumes = state.resumes
            self._breaker.take_over(state.breaker)
            self._settling.noted = state.breaker
            self._log.info("destination resumed" if was_paused else "destination is tried now, as requested")
        self._lanes.forget()
        self._woken.set()

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
        await self._settling.wait()

    def stop(self) -> None:
        """Start no more attempts."""
        self.stopping.set()
        self.wake()

    async def close(self) -> None:
        """Cancel the attempts in flight (they are retried after the next start) and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._settling.cancel()
        await asyncio.to_thread(self._formatter.close)  # it may wait for a process to start or to end
        await close(self._kind, self._name)

    async def _pull_back(self) -> None:
        """Correct due times that lie too far ahead because the wall clock was set back since they were recorded."""
        longest, now = longest_pause(self._retry), self._clock()
        more = True
        while more and not self.stopping.is_set():
            more = await self._queue.pull_back(self.destination_id, longest=longest, now=now)

    def _turn(self) -> float:
        """Start all attempts that may start now. Returns the seconds to wait before the next check.

        `now` is read once: what becomes due later is left to the next check.
        """
        now = self._clock()
        while not (self._paused or self._is_gone) and (room := self._breaker.room):
            pause = max(self._breaker.wait(now), self._rate.wait(now)) or self._start_some(room, now)
            if pause:
                return min(pause / 1000, CHECK_INTERVAL_S)
        return CHECK_INTERVAL_S

    def _start_some(self, room: int, now: Millis) -> Millis:
        """Start as many attempts as there is room for, or one batch. Returns how long to wait if nothing is due."""
        count = self._count(room)
        lanes = self._lanes.next(count, now, all_due=self._batch is not None)
        if not lanes:
            self._waits_since = None
            return self._lanes.pause(now)
        each = 1 if self._batch is None else count
        due = self._queue.first_of_lanes(self.destination_id, lanes, now=now, limit=count, each=each)
        found = sum(map(len, due.values()))
        if not found:  # these lanes have finished since they were read
            return Millis(int(LEDGER_PAUSE_S * 1000)) if self._lanes.is_fresh else Millis(0)
        patience = self._patience(now)
        alone = self._alone(due) if patience else []
        if patience and found - sum(len(due[lane]) for lane in alone) < count:  # the batch may grow
            self._lanes.put_back(lane for lane in lanes if lane not in alone)
            if not alone:
                return min(patience, self._lanes.next_due_in(now))
            due = {lane: due[lane][:1] for lane in alone}
        else:
            self._waits_since = None
        groups = [[one] for one in self._read(due)] if self._batch is None else together(self._read(due))
        self._start(groups[:room], now)
        started = {one.queued.lane for some in groups[:room] for one in some}
        self._lanes.put_back(
            dict.fromkeys(one.queued.lane for some in groups[room:] for one in some if one.queued.lane not in started)
        )
        return Millis(0)

    def _count(self, room: int) -> int:
        """How many deliveries are started at once: as many as there is room for, or a batch of them.

        A probe is a single event. Events at a limited rate are evenly spaced; batches keep it in every second.
        """
        burst = self._rate.burst
        if not self._breaker.is_closed or (burst is not None and self._batch is None):
            return 1
        if self._batch is None:
            return room
        return self._batch.max if burst is None else min(self._batch.max, burst)

    def _patience(self, now: Millis) -> Millis:
        """How much longer a batch that is not full waits for more events."""
        if self._batch is None:
            return Millis(0)
        if self._waits_since is None:
            self._waits_since = now
        return Millis(max(0, self._waits_since + self._batch.wait - now))

    def _alone(self, due: dict[str, list[int]]) -> list[str]:
        """The lanes whose first delivery goes out alone, so that nothing of them is in a batch."""
        heads = {lane: events[0] for lane, events in due.items() if events}
        often = self._queue.failed_often(self.destination_id, list(heads.values()), failures=ALONE_AFTER)
        return [lane for lane, head in heads.items() if head in often]

    def _read(self, due: dict[str, list[int]]) -> list[Ready]:
        """The deliveries that are due, with their events. If one can't be read, its lane is paused briefly."""
        try:
            event_ids = [event_id for events in due.values() for event_id in events]
            return self._queue.ready(self.destination_id, event_ids, most_bytes=MOST_BYTES)
        except LedgerError:
            return [one for lane, events in due.items() for one in self._read_lane(lane, events)]

    def _read_lane(self, lane: str, event_ids: Sequence[int]) -> list[Ready]:
        """The deliveries of one lane up to the first that can't be read."""
        found: list[Ready] = []
        for event_id in event_ids:
            try:
                found += self._queue.ready(self.destination_id, [event_id], most_bytes=MOST_BYTES)
            except LedgerError as error:  # the delivery stays pending
                self._ledger.report_damage(error)
                self._log.error("attempt not made", event_id=event_id, error=str(error))
                if not found:
                    self._rest([lane])
                break
        return found

    def _start(self, groups: Sequence[Sequence[Ready]], now: Millis) -> None:
        """Start an attempt at each of these: a delivery, or several as a batch."""
        for some in groups:
            self._lanes.occupy(one.queued.lane for one in some)
            self._rate.take(now, len(some))
            task = asyncio.create_task(self._attempt(some, self._breaker.started()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _attempt(self, some: Sequence[Ready], generation: int) -> None:
        """Make an attempt, or send a batch, and hand its outcomes over to be written."""
        if not self._queue.is_held:  # this process was stopped for seconds: another one may send them
            self._breaker.not_attempted()
            self._rest({one.queued.lane for one in some})
            return
        try:
            outcomes = await self._sender.attempt(some)
        except BaseException as error:  # a bug must not block the other lanes
            self._breaker.not_attempted()
            if not isinstance(error, Exception):
                raise
            self._log.exception("attempt failed", event_id=some[0].queued.event_id)
            self._rest({one.queued.lane for one in some})
            return
        self._report(outcomes, generation)
        self._settling.add(outcomes)
        self._lanes.free({one.queued.lane for one in some} - {one.queued.lane for one in outcomes})
        self._woken.set()  # a slot is free

    def _rest(self, lanes: Iterable[str]) -> None:
        """Leave these lanes alone for a moment."""
        lanes = list(lanes)
        self._lanes.occupy(lanes)
        asyncio.get_running_loop().call_later(LEDGER_PAUSE_S, self._free, lanes)

    def _free(self, lanes: Iterable[str]) -> None:
        self._lanes.free(lanes)
        self._woken.set()

    def _report(self, outcomes: Sequence[Outcome], generation: int) -> None:
        """Report outcomes to the breaker and the log. A batch counts once."""
        was_up = self._breaker.is_closed
        found = verdict(outcomes)
        if found.failed is None:
            self._breaker.not_attempted()
        elif found.failed:
            self._breaker.failed(
                generation, now=self._clock(), at=found.at, retry_after=found.retry_after, counts=found.counts
            )
        else:
            self._breaker.succeeded(generation, at=found.at)
        for one in outcomes:
            self._log_outcome(one, was_up)
        if any(one.gone for one in outcomes):
            self._is_gone = True
            self._log.warning("destination is gone (410): paused")
        if was_up and not self._breaker.is_closed:
            self._log.warning("circuit breaker opened: destination is down", failures=self._breaker.state.failures)
        if self._breaker.is_closed and not was_up:
            self._log.info("circuit breaker closed: destination is up")

    def _log_outcome(self, one: Outcome, was_up: bool) -> None:
        tried = one.attempt
        if tried.error_class is None:
            self._log.debug("delivered", event_id=tried.event_id, status=tried.status, attempt=tried.number)
            return
        about = {"event_id": tried.event_id, "status": tried.status, "attempt": tried.number}
        if one.is_dead_letter:
            self._log.warning(f"dead letter: {one.why}", error=tried.error, **about)
        else:
            log_it = self._log.warning if was_up else self._log.debug
            log_it("attempt failed, will retry", error=tried.error, pause_ms=one.pause, **about)

    def _settled(self, outcomes: Sequence[Outcome], breaker_changed: bool) -> None:
        """These outcomes are on disk: their lanes are free again."""
        self._free({one.queued.lane for one in outcomes})
        if any(one.gone for one in outcomes):
            self._paused, self._is_gone = True, False
        if breaker_changed or any(one.gone or one.is_dead_letter for one in outcomes):
            self._watcher.trouble()
        for one in outcomes:
            tried = one.attempt
            took = Millis(tried.ended_at - tried.started_at)
            if tried.error_class is None:
                self._watcher.attempted(self._name, "delivered", took, Millis(tried.ended_at - one.queued.opened_at))
            else:
                self._watcher.attempted(self._name, tried.error_class, took, None)
