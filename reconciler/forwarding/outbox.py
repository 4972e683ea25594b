"""One destination's way out of the ledger: takes due deliveries lane by lane and sees each through.

Nothing of the backlog is held in memory but the names of some lanes: what goes next is asked of the ledger
when a slot is free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog
from sqlite_utils import Database

from reconciler.config.models import Destination
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.pace import Pace
from reconciler.forwarding.retry import backoff, is_refusal
from reconciler.forwarding.sender import Answer, Sender
from reconciler.ledger import queue
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.queue import Attempt, Outgoing, Queued
from reconciler.ledger.writer import Writer

LANES_IN_MEMORY = 1000
LEDGER_PAUSE_S = 1.0
SHORTEST_PAUSE: Millis = 50
"""Between looks for a retry that is due but waits behind another delivery of its lane."""

log = structlog.get_logger(__name__)


class Outbox:
    """Delivers one destination's deliveries until told to stop."""

    def __init__(
        self,
        destination: Destination,
        destination_id: int,
        *,
        db: Database,
        writer: Writer,
        formatter: Formatter,
        sender: Sender,
    ) -> None:
        self.destination_id = destination_id
        self._retry = destination.retry
        self._db = db
        self._writer = writer
        self._formatter = formatter
        self._sender = sender
        self._pace = Pace(destination.retry, destination.concurrency)
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

    def look_again(self) -> None:
        """Another process changed the ledger: ask it what is due."""
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
        await self._sender.close()

    def _start_what_may_start(self) -> None:
        while self._pace.may_start(times.now()):
            found = self._next()
            if found is None:
                return
            lane, queued = found
            self._busy.add(lane)
            task = asyncio.create_task(self._see_through(lane, queued, self._pace.started()))
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
        now = times.now()
        pause = self._pace.wait(now)
        if pause:
            return pause / 1000
        if not self._pace.may_start(now):
            return None
        due = queue.next_due(self._db, self.destination_id)
        return None if due is None else max(due - now, SHORTEST_PAUSE) / 1000

    async def _see_through(self, lane: str, queued: Queued, of_round: int) -> None:
        """One attempt, and its outcome in the ledger; then the lane is free for its next."""
        try:
            outcome = await self._attempt(queued, of_round)
        except Exception:  # the ledger can't be read: the event stays where it is
            self._log.exception("an attempt can't be made", event_id=queued.event_id)
            self._pace.failed(of_round, now=times.now(), retry_after=times.SECOND)
        else:
            await self._write(outcome)
        self._busy.discard(lane)
        self._list(lane)
        self._woken.set()

    async def _attempt(self, queued: Queued, of_round: int) -> Callable[[Database], None]:
        event = queue.outgoing(self._db, queued.event_id)
        started_at = times.now()
        message = self._formatter.message(event, attempt=queued.attempts + 1, now=started_at)
        answer = await self._sender.send(message)
        attempt = Attempt(
            event_id=event.event_id,
            destination_id=self.destination_id,
            sighting_id=event.sighting_id,
            started_at=started_at,
            ended_at=times.now(),
            status=answer.status,
            error=answer.error,
        )
        return self._judge(event, queued, answer, attempt, of_round)

    def _judge(
        self, event: Outgoing, queued: Queued, answer: Answer, attempt: Attempt, of_round: int
    ) -> Callable[[Database], None]:
        """What the answer means: for the pace, and for the delivery."""
        about = self._log.bind(event_id=event.event_id, status=answer.status, attempt=queued.attempts + 1)
        if answer.taken:
            self._pace.succeeded()
            about.debug("delivered")
            return lambda db: queue.deliver(db, attempt)
        if answer.status is not None and is_refusal(answer.status, self._retry):
            self._pace.succeeded()
            about.warning("dead letter: the destination refused it", error=answer.error)
            return lambda db: queue.bury(db, attempt)
        was_down = self._pace.down
        self._pace.failed(of_round, now=attempt.ended_at, retry_after=answer.retry_after)
        first = queued.first_attempt_at if queued.first_attempt_at is not None else attempt.started_at
        if attempt.ended_at - first >= self._retry.max_age:
            about.warning("dead letter: not taken in time", error=answer.error)
            return lambda db: queue.bury(db, attempt)
        pause = max(backoff(self._retry, queued.attempts + 1), answer.retry_after)
        (about.debug if was_down else about.warning)("not taken, will try again", error=answer.error, pause_ms=pause)
        due = attempt.ended_at + pause
        return lambda db: queue.retry(db, attempt, next_attempt_at=due)

    async def _write(self, outcome: Callable[[Database], None]) -> None:
        """The outcome must reach the ledger: wait as long as that takes."""
        while True:
            try:
                await self._writer.run(outcome)
            except LedgerUnavailable:
                await asyncio.sleep(LEDGER_PAUSE_S)
            else:
                return
