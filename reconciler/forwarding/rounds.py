"""Sends a batch to a destination that confirms its messages one by one, so that none overtakes another of its lane.

A round has the next messages of every lane; the following round begins when all of them are confirmed. A lane with a
message that was not accepted is left out of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from reconciler.forwarding.message import NOT_SENT, Answer, Message

T = TypeVar("T")

Send = Callable[[Sequence[Message]], Awaitable[Sequence[Answer]]]


async def in_rounds(
    messages: Sequence[Message], send: Send, *, target: Callable[[Message], Hashable] | None = None
) -> list[Answer]:
    """Send a batch in rounds. Returns one Answer for each message; NOT_SENT for those behind a failed one.

    A round has one message of each lane, or, with `target`, its next messages that have the same target: those to
    which the destination applies messages in order, and none after one that it did not accept.
    """
    answers = [NOT_SENT] * len(messages)
    lanes = _lanes(messages)
    while lanes:
        runs = [_run(messages, lane, target) for lane in lanes]
        positions = [position for run in runs for position in run]
        found = await send([messages[position] for position in positions])
        for position, answer in zip(positions, found, strict=True):
            answers[position] = answer
        lanes = [
            lane[len(run) :]
            for lane, run in zip(lanes, runs, strict=True)
            if len(run) < len(lane) and all(answers[position].accepted for position in run)
        ]
    return answers


def _lanes(messages: Sequence[Message]) -> list[list[int]]:
    """The positions of each lane's messages. Messages without a lane are alone."""
    lanes: dict[str | int, list[int]] = {}
    for position, message in enumerate(messages):
        lanes.setdefault(message.lane or position, []).append(position)
    return list(lanes.values())


def _run(messages: Sequence[Message], lane: list[int], target: Callable[[Message], Hashable] | None) -> list[int]:
    if target is None:
        return lane[:1]
    first = target(messages[lane[0]])
    return list(takewhile(lambda position: target(messages[position]) == first, lane))


async def gathered(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all. If one raises, wait for the others and then raise its exception: none is left running."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
    return [task.result() for task in tasks]
