"""One destination's way out of the ledger: takes due deliveries lane by lane and sees each through.

Nothing of the backlog is held in memory but the names of some lanes: what goes next is asked of the ledger
when a slot is free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import structlog
from sqlite_utils import Database

from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.forwarding.breaker import CircuitBreaker
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.judge import Verdict, judge, untransformable
from reconciler.forwarding.kind import Kind, attempt
from reconciler.forwarding.rate import RateLimit
from reconciler.forwarding.transform import TransformFailed
from reconciler.ledger import destinations, queue
from reconciler.ledger.alerts import GONE
from reconciler.ledger.destinations import Standing
from reconciler.ledger.errors import ChangeFailed, LedgerUnavailable
from reconciler.ledger.queue import Queued
from reconciler.ledger.writer import Writer

LANES_IN_MEMORY = 1000
LEDGER_PAUSE_S = 1.0
LONGEST_PAUSE_S = 600.0
SHORTEST_PAUSE = Millis(50)
"""Between looks for a retry that is due but waits behind another delivery of its lane."""

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
    """Delivers one destination's deliveries until told to stop."""

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
    ) -> None:
        self.destination_id = standing.id
        self._destination = destination
        self._db = db
        self._writer = writer
        self._formatter = formatter
        self._kind = kind
        self._watcher = watcher
        self._breaker = CircuitBreaker(destination, standing.breaker)
        self._noted_breaker = standing.breaker
        self._rate = RateLimit(destination.rate)
        self._paused = standing.paused_at is not None
        self._ready: deque[str] = deque()
        self._listed: set[str] = set()
        self._busy: set[str] = set()
        self._look_again = True
        self._woken = asyncio.Event()
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = log.bind(destination=destination.name)

    def wake(self, lane: str) -> None:
        """A delivery was opened in this lane."""
        if len(self._ready) >= LANES_IN_MEMORY:
            self._look_again = True
        else:
            self._list(lane)
        self._woken.set()

    def look_again(self, standing: Standing) -> None:
        """Another process changed the ledger: ask it what is due, and whether this destination is paused."""
        was_paused, self._paused = self._paused, standing.paused_at is not None
        if self._paused and not was_paused:
            self._log.info("paused: what comes is kept", why=standing.paused_why)
        if standing.breaker not in (self._noted_breaker, self._breaker.state):  # somebody resumed it
            self._breaker.take_over(standing.breaker)
            self._noted_breaker = standing.breaker
        if was_paused and not self._paused:
            self._log.info("resumed")
        self._look_again = True
        self._woken.set()

    async def run(self) -> None:
        """Deliver until `stop`; then return when what is in flight has ended."""
        while not self._stopping:
            self._woken.clear()
            self._start_what_may_start()
            try:
                await asyncio.wait_for(self._woken.wait(), self._until_next_due())
            except TimeoutError:
                self._look_again = True
        if self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Start nothing more."""
        self._stopping = True
        self._woken.set()

    async def close(self) -> None:
        """Give up what is in flight (it is tried again after the next start) and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._kind.close()

    def _start_what_may_start(self) -> None:
        while not self._paused and self._breaker.may_start(times.now()) and not self._rate.wait(times.now()):
            found = self._next()
            if found is None:
                return
            lane, queued = found
            self._busy.add(lane)
            self._rate.take(times.now())
            task = asyncio.create_task(self._see_through(lane, queued, self._breaker.started()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next(self) -> tuple[str, Queued] | None:
        """The next lane whose head is due, and that head."""
        while self._ready or self._look_again:
            if not self._ready:
                self._fill()
                continue
            lane = self._ready.popleft()
            self._listed.discard(lane)
            queued = queue.head(self._db, self.destination_id, lane)
            if queued is not None and queued.next_attempt_at <= times.now():
                return lane, queued
        return None

    def _fill(self) -> None:
        lanes = queue.next_lanes(
            self._db, self.destination_id, now=times.now(), limit=LANES_IN_MEMORY + len(self._busy)
        )
        # Busy lanes come back by themselves; where the limit was met, there may be more behind it.
        self._look_again = len(lanes) >= LANES_IN_MEMORY
        for lane in lanes:
            self._list(lane)

    def _list(self, lane: str) -> None:
        if lane not in self._busy and lane not in self._listed:
            self._listed.add(lane)
            self._ready.append(lane)

    def _until_next_due(self) -> float | None:
        """Seconds until something may start by itself; None where only a wake-up can bring work."""
        if self._paused:
            return None
        now = times.now()
        pause = max(self._breaker.wait(now), self._rate.wait(now))
        if pause:
            return pause / 1000
        if not self._breaker.may_start(now):
            return None
        due = queue.next_due(self._db, self.destination_id)
        return None if due is None else max(due - now, SHORTEST_PAUSE) / 1000

    async def _see_through(self, lane: str, queued: Queued, generation: int) -> None:
        """One attempt, and its outcome in the ledger; then the lane is free for its next."""
        try:
            verdict = await self._attempt(queued)
        except Exception:  # the ledger can't be read: the event stays where it is
            self._log.exception("an attempt can't be made", event_id=queued.event_id)
            self._breaker.gave_up()
            await asyncio.sleep(LEDGER_PAUSE_S)
        except asyncio.CancelledError:
            self._breaker.gave_up()
            raise
        else:
            await self._settle(verdict, generation)
            tried = verdict.attempt
            took = Millis(tried.ended_at - tried.started_at)
            waited = Millis(tried.ended_at - queued.opened_at) if tried.error_class is None else None
            outcome = tried.error_class or "taken"
            self._watcher.attempted(self._destination.name, outcome, took, waited)
        self._busy.discard(lane)
        self._list(lane)
        self._woken.set()

    async def _attempt(self, queued: Queued) -> Verdict:
        event = queue.outgoing(self._db, queued.event_id)
        number, started_at = queued.attempts + 1, times.now()
        try:
            message = self._formatter.message(event, attempt=number, replays=queued.replays, now=started_at)
        except TransformFailed as error:
            return untransformable(event, self.destination_id, number, started_at, error)
        with self._watcher.attempting(message.id, self._destination.name, number) as headers:
            message.headers.update(headers)
            answer = await attempt(self._kind, message, timeout_s=self._destination.timeout / 1000)
        tried = queue.Attempt(
            event_id=event.event_id,
            destination_id=self.destination_id,
            sighting_id=event.sighting_id,
            number=number,
            started_at=started_at,
            ended_at=times.now(),
            status=answer.status,
            error_class=answer.error_class,
            error=answer.error,
            response=answer.response,
        )
        return judge(self._destination.retry, queued, answer, tried)

    async def _settle(self, verdict: Verdict, generation: int) -> None:
        """Tell the breaker, the log and the ledger: the last two of a change of the breaker's too."""
        before = self._breaker.state
        now = verdict.attempt.ended_at
        if verdict.destination_works:
            self._breaker.succeeded(generation, now=now)
        else:
            self._breaker.failed(
                generation, now=now, retry_after=verdict.retry_after, counts=verdict.counts_against_destination
            )
        after = self._breaker.state
        self._tell(verdict, before.state == "closed")
        if verdict.gone:
            self._paused = True
            self._log.warning("the destination is gone (410): paused, what comes is kept")

        def write(db: Database) -> None:
            verdict.write(db)
            if after != before:
                destinations.note_breaker(db, self.destination_id, after)
            if verdict.gone:
                destinations.pause(db, self.destination_id, GONE, now=now)

        await self._write(write)
        if after != before:
            self._noted_breaker = after
        opened, closed = before.state == "closed" != after.state, after.state == "closed" != before.state
        if opened:
            self._log.warning("the circuit breaker is open: the destination is down", failures=after.failures)
        if closed:
            self._log.info("the circuit breaker is closed: the destination takes events again")
        if opened or closed or verdict.gone or verdict.is_dead:
            self._watcher.trouble()

    def _tell(self, verdict: Verdict, was_up: bool) -> None:
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
        """The outcome must reach the ledger: wait as long as that takes. What can't be written because of a mistake
        of ours is tried ever more rarely: its lane waits, and is not sent twice.
        """
        pause_s = LEDGER_PAUSE_S
        while True:
            try:
                await self._writer.run(change)
            except LedgerUnavailable:
                await asyncio.sleep(LEDGER_PAUSE_S)
            except ChangeFailed:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                return
