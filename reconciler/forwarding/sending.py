"""Makes attempts: one message, or a batch of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec
import structlog

from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.times import Millis, SteadyClock
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.kind import Kind, attempt, attempt_batch
from reconciler.forwarding.message import NOT_SENT, Answer, Message
from reconciler.forwarding.outcome import Outcome, classify, classify_message_error
from reconciler.forwarding.rounds import sent_in_parts
from reconciler.forwarding.watcher import Watcher
from reconciler.ledger.queue.deliveries import Attempt, Ready

log = structlog.get_logger(__name__)

ALONE_AFTER = 3
"""A delivery that has failed this many times leaves its batch."""


def together(ready: Sequence[Ready]) -> list[list[Ready]]:
    """What goes out together: a batch, and each delivery that has failed often alone.

    Such a delivery may be why whole batches fail. In a batch it would make the others fail again and again, until all
    of them are dead letters. What comes after it in its lane waits for it.
    """
    batch: list[Ready] = []
    alone: list[list[Ready]] = []
    in_batch: set[str] = set()
    closed: set[str] = set()
    for one in ready:
        lane = one.queued.lane
        if lane in closed:
            continue
        if one.queued.failures >= ALONE_AFTER:
            closed.add(lane)
            if lane not in in_batch:
                alone.append([one])
        else:
            batch.append(one)
            in_batch.add(lane)
    return [*([batch] if batch else []), *alone]


class Sender:
    """Makes attempts at one destination's deliveries. Writes nothing."""

    def __init__(
        self,
        destination: Destination,
        destination_id: int,
        *,
        formatter: Formatter,
        kind: Kind,
        watcher: Watcher,
        clock: SteadyClock,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._name = destination.name
        self._log = log.bind(destination=destination.name)
        self._retry = destination.retry
        self._timeout_s = destination.timeout / 1000
        self._is_batched = destination.batching is not None
        self._destination_id = destination_id
        self._formatter = formatter
        self._kind = kind
        self._watcher = watcher
        self._clock = clock
        self._is_stopping = is_stopping

    async def attempt(self, some: Sequence[Ready]) -> list[Outcome]:
        """Attempt these deliveries: one, or a batch.

        Returns an outcome for each that was attempted. The others stay as they are: an earlier one of their lane
        failed, or of their batch, or the outbox stops.
        """
        outcomes, written = await self._written(some)
        if written:
            outcomes += await self._sent(written)
        return outcomes

    async def _written(self, some: Sequence[Ready]) -> tuple[list[Outcome], list[tuple[Ready, Message]]]:
        """The messages, and the outcomes of deliveries whose message can't be built."""
        outcomes: list[Outcome] = []
        written: list[tuple[Ready, Message]] = []
        held: set[str] = set()
        for one in some:
            at = times.now()
            if one.queued.lane in held:
                continue
            try:
                written.append((one, await self._formatter.message_async(one, now=at)))
            except Exception as error:  # whatever it is, one event must not block the others
                tried = self._attempt(one, at, times.now())
                outcomes.append(classify_message_error(self._retry, one.queued, tried, error, now=self._clock()))
                if not isinstance(error, TransformFailed):
                    self._log.exception("message not built", event_id=one.queued.event_id)
                    held.add(one.queued.lane)
        return outcomes, written

    async def _sent(self, written: Sequence[tuple[Ready, Message]]) -> list[Outcome]:
        began = times.now()
        messages = [message for _, message in written]
        with ExitStack() as stack:
            for one, message in written:
                number = one.queued.attempts + 1
                message.headers.update(stack.enter_context(self._watcher.attempting(message.id, self._name, number)))
            if self._is_batched:
                clock = asyncio.get_running_loop().time
                late = clock() + self._timeout_s
                answers = await sent_in_parts(
                    messages,
                    self._send_part,
                    target=self._kind.target,
                    halve=self._kind.batch_fails_whole,
                    is_stopping=self._is_stopping,
                    is_late=lambda: clock() >= late,
                )
            else:
                answers = [await attempt(self._kind, messages[0], timeout_s=self._timeout_s)]
        ended, now, seed = times.now(), self._clock(), random.random()
        return [
            classify(
                self._retry,
                one.queued,
                answer,
                self._attempt(one, began, ended),
                now=now,
                uniform=None if answer.accepted else random.Random(seed),  # a batch is retried together
            )
            for (one, _), answer in zip(written, answers, strict=True)
            if answer is not NOT_SENT
        ]

    async def _send_part(self, messages: Sequence[Message]) -> Sequence[Answer]:
        return await attempt_batch(self._kind, messages, timeout_s=self._timeout_s)

    def _attempt(self, one: Ready, began: Millis, ended: Millis) -> Attempt:
        queued = one.queued
        return Attempt(
            queued.event_id, self._destination_id, one.event.sighting_id, queued.attempts + 1, began, ended
        )


class Verdict(msgspec.Struct, frozen=True):
    """What the outcomes of one attempt, or one batch, say about the destination. `failed` is None if nothing."""

    failed: bool | None
    counts: bool = True
    retry_after: Millis = Millis(0)
    at: Millis = Millis(0)


def verdict(outcomes: Sequence[Outcome]) -> Verdict:
    """A batch counts once. A destination works if it accepted or rejected any event of it."""
    asked = [one for one in outcomes if one.destination_was_asked]
    if not asked:
        return Verdict(None)
    at = asked[-1].attempt.ended_at
    if any(one.destination_works for one in asked):
        return Verdict(False, at=at)
    return Verdict(
        True,
        counts=any(one.counts_against_destination for one in asked),
        retry_after=max(one.retry_after for one in asked),
        at=at,
    )
