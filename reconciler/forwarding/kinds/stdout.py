"""`kind: stdout`: writes one line of JSON for each event to the service's standard output, for a pipe."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from reconciler.config.destinations import BatchedDestination
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.kinds.file import line, lines_of
from reconciler.forwarding.message import ACCEPTED, Answer, Message


class StdoutDestination(BatchedDestination):
    """Standard output; logs go to standard error."""

    kind: Literal["stdout"] = "stdout"
    format: Literal["webhook", "cloudevents"] = Field(
        "cloudevents", description="`cloudevents`: each line includes the event's ID. `webhook`: GitLab's body alone."
    )


class Stdout(Kind):
    """Writes lines. Delivered means that the pipe accepted the line; what its reader does is not known."""

    config = StdoutDestination
    batch_fails_whole: ClassVar[bool] = False

    def __init__(self, destination: StdoutDestination) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return "standard output"

    async def send(self, message: Message) -> Answer:
        await self._written(line(message.body))
        return ACCEPTED

    async def send_batch(self, messages: Sequence[Message]) -> Sequence[Answer]:
        lines, answers = lines_of(messages)
        await self._written(lines)
        return answers

    def target(self, message: Message) -> Hashable:
        return self.address

    async def close(self) -> None:
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _written(self, lines: bytes) -> None:
        await self._one_at_a_time.acquire()  # given up here, nothing of it is written
        task = asyncio.create_task(_write(lines))
        self._writing.add(task)
        task.add_done_callback(self._end)
        await asyncio.shield(task)  # a line that was begun is finished, even after the timeout

    def _end(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        self._one_at_a_time.release()
        if not task.cancelled():
            task.exception()  # it is the answer of who still waits, and else nobody's


async def _write(lines: bytes) -> None:
    file = sys.stdout.fileno()
    for start in range(0, len(lines), select.PIPE_BUF):
        piece = memoryview(lines)[start : start + select.PIPE_BUF]
        while piece:
            await _writable(file)
            piece = piece[os.write(file, piece) :]


async def _writable(file: int) -> None:
    """Wait until a pipe has room. It then has room for at least PIPE_BUF bytes (POSIX), so writing that many does not
    block. Files and /dev/null can't be waited for, and need not be.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_writer(file, lambda: None if ready.done() else ready.set_result(None))
    except OSError:
        return
    try:
        await ready
    finally:
        loop.remove_writer(file)
