"""Sends a batch in parts: in rounds, so that no message overtakes another of its lane, and in halves where messages
are rejected.

A round has the next messages of every lane; the following round begins when all of them are answered. A lane with a
message that was not accepted is left out of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from reconciler.forwarding.message import NOT_SENT, Answer, Message

T = TypeVar("T")

SendPart = Callable[[Sequence[Message]], Awaitable[Sequence[Answer]]]
Target = Callable[[Message], Hashable | None]


async def sent_in_parts(
    messages: Sequence[Message],
    send: SendPart,
    *,
    target: Target,
    halve: bool,
    is_stopping: Callable[[], bool] = lambda: False,
    is_late: Callable[[], bool] = lambda: False,
) -> list[Answer]:
    """Send a batch, one part after the other. Returns one Answer for each message.

    A round has one message of each lane, or its next messages that have the same `target`. With `halve`, what a
    round rejects is sent again in halves, until the rejected messages are alone. After a failure that may pass, no
    halves are sent, and nothing of the lanes that failed: these messages get NOT_SENT.

    No other round begins once `is_late`, so that the outcomes of what was sent are recorded. No other part begins
    once `is_stopping`, or when the task is cancelled and there are answers already. What is left gets NOT_SENT.
    If there are no answers, the cancellation is raised.
    """
    parts = _Parts(messages, target, halve=halve)
    while not is_stopping() and (part := parts.next(is_late=is_late)):
        try:
            found = await send([messages[position] for position in part])
        except asyncio.CancelledError:
            if all(answer is NOT_SENT for answer in parts.answers):
                raise
            break
        parts.note(part, found)
        if is_cancelled():
            break
    return parts.answers


def is_cancelled() -> bool:
    """Whether this task was cancelled, also if something kept its answers and did not raise the cancellation."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Parts:
    """The answers to a batch, and which of its messages are sent next. They are numbered by their position."""

    def __init__(self, messages: Sequence[Message], target: Target, *, halve: bool) -> None:
        self.answers = [NOT_SENT] * len(messages)
        self._messages = messages
        self._target = target
        self._halve = halve
        self._halves: list[list[int]] = []
        self._begun = False
        self._lanes: list[tuple[list[int], list[int]]] = [([], lane) for lane in _lanes(messages)]
        """What each lane had in the last round, and what is left of it."""

    def next(self, *, is_late: Callable[[], bool]) -> list[int]:
        """What is sent next; empty if nothing is."""
        if self._halves:  # always to their end: else a batch that is rejected slowly would never be decided
            return self._halves.pop()
        return [] if self._begun and is_late() else self._next_round()

    def note(self, part: Sequence[int], found: Sequence[Answer]) -> None:
        """These are the answers to a part."""
        rejected = [position for position, answer in zip(part, found, strict=True) if answer.rejected]
        undecided = set(rejected) if self._halve and len(part) > 1 and len(rejected) > 1 else set()
        for position, answer in zip(part, found, strict=True):
            if position not in undecided:
                self.answers[position] = answer
        if any(not (answer.accepted or answer.rejected or answer is NOT_SENT) for answer in found):
            self._halves.clear()
        elif undecided:
            middle = len(rejected) // 2
            self._halves += [rejected[middle:], rejected[:middle]]

    def _next_round(self) -> list[int]:
        self._begun = True
        runs = []
        for last, left in self._lanes:
            if left and all(self.answers[position].accepted for position in last):
                run = self._run(left)
                runs.append((run, left[len(run) :]))
        self._lanes = runs
        return [position for run, _ in runs for position in run]

    def _run(self, left: list[int]) -> list[int]:
        first = self._target(self._messages[left[0]])
        if first is None:
            return left[:1]
        return list(takewhile(lambda position: self._target(self._messages[position]) == first, left))


def _lanes(messages: Sequence[Message]) -> list[list[int]]:
    """The positions of each lane's messages. Messages without a lane are alone."""
    lanes: dict[str | int, list[int]] = {}
    for position, message in enumerate(messages):
        lanes.setdefault(message.lane or position, []).append(position)
    return list(lanes.values())


async def gathered(work: Iterable[Coroutine[Any, Any, T]], unanswered: T) -> list[T]:
    """Await all. If one raises, wait for the others and then raise its exception: none is left running.

    On a cancellation, those that have ended keep their results, and `unanswered` is the others'. If none has
    ended, the cancellation is raised.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    if not tasks:
        return []
    cancellation: asyncio.CancelledError | None = None
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:  # a stop may follow a time-out
            cancellation = error
            for task in tasks:
                task.cancel()
    if cancellation is not None and all(task.cancelled() for task in tasks):
        raise cancellation
    return [unanswered if task.cancelled() else task.result() for task in tasks]
