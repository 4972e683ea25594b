"""`kind: file`: appends one line of JSON for each event to a file that is rotated. Delivered means on disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Hashable, Sequence
from itertools import count
from pathlib import Path
from typing import ClassVar, Literal

import structlog
from pydantic import Field

from reconciler.config.basics import FileToWrite
from reconciler.config.destinations import BatchedDestination
from reconciler.config.units import Size
from reconciler.events.fields import parsed
from reconciler.forwarding.kind import Kind, answer_to
from reconciler.forwarding.message import ACCEPTED, Answer, DeliveryRejected, Message

log = structlog.get_logger(__name__)


class FileDestination(BatchedDestination):
    """A file of newline-delimited JSON."""

    kind: Literal["file"] = "file"
    format: Literal["webhook", "cloudevents"] = Field(
        "cloudevents", description="`cloudevents`: each line includes the event's ID. `webhook`: GitLab's body alone."
    )
    path: FileToWrite = Field(description="Path of the file, relative to the config file.")
    rotate_size: Size = Field("100MiB", validate_default=True, description="Size at which the file is rotated.")
    max_files: int = Field(10, ge=0, description="How many rotated files to keep. 0 keeps all.")


class File(Kind):
    """Appends lines. Messages that arrive during a write to disk share the next write."""

    config = FileDestination
    batch_fails_whole: ClassVar[bool] = False

    def __init__(self, destination: FileDestination) -> None:
        self._path: Path = destination.path
        self._rotate_size = destination.rotate_size
        self._max_files = destination.max_files
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._cannot_rotate = False
        """Whether the last rotation failed, so that this was logged."""

    @property
    def address(self) -> str:
        return str(self._path)

    async def check(self) -> str:
        """Open the file for writing."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab"):
            return f"{self._path} can be written"

    async def send(self, message: Message) -> Answer:
        await self._written(line(message.body))
        return ACCEPTED

    async def send_batch(self, messages: Sequence[Message]) -> Sequence[Answer]:
        lines, answers = lines_of(messages)
        if lines:
            await self._written(lines)
        return answers

    def target(self, message: Message) -> Hashable:
        return self.address

    async def close(self) -> None:
        if self._writing is not None:
            await self._writing

    async def _written(self, lines: bytes) -> None:
        """Have lines written, and wait until they are on disk. Raises OSError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (lines, done)
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        try:
            await done
        except asyncio.CancelledError:
            if waiting in self._waiting:  # not begun: it would be there twice once it is sent again
                self._waiting.remove(waiting)
            raise

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            error: OSError | None = None
            try:
                await asyncio.to_thread(self._append, b"".join(one for one, _ in batch))
            except OSError as problem:
                error = problem
            for _, done in batch:
                if not done.done():
                    done.set_result(None) if error is None else done.set_exception(error)
        self._writing = None

    def _append(self, lines: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            _truncate_partial_line(file.fileno())
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        if size >= self._rotate_size:
            self._try_to_rotate()

    def _try_to_rotate(self) -> None:
        """A failure is no failure of the lines: they are on disk. The next write tries again."""
        try:
            self._rotate()
        except OSError as error:
            if not self._cannot_rotate:
                log.warning("file can't be rotated, so it grows", file=str(self._path), error=str(error))
            self._cannot_rotate = True
        else:
            self._cannot_rotate = False

    def _rotate(self) -> None:
        """Rename `events.ndjson` to `events.ndjson.1`, `.1` to `.2`, and so on up to the first number that is free:
        a repetition after a failure moves, and removes, nothing more.
        """
        kept = self._rotated()
        free = next(number for number in count(1) if number not in kept)
        for number in sorted(kept, reverse=True):
            old, last = self._numbered(number), self._max_files
            if last and (number > last or number == last < free):
                old.unlink()
            elif number < free:
                old.rename(self._numbered(number + 1))
        self._path.rename(self._numbered(1))

    def _rotated(self) -> list[int]:
        suffixes = (path.name.removeprefix(self._path.name + ".") for path in self._path.parent.iterdir())
        return [int(suffix) for suffix in suffixes if suffix.isascii() and suffix.isdigit()]

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def line(body: bytes) -> bytes:
    """A body as one line. GitLab's JSON may have line breaks between its values: they become spaces.

    Raises DeliveryRejected if a body with line breaks is not JSON (a template can make anything).
    """
    if b"\n" not in body and b"\r" not in body:
        return body + b"\n"
    try:
        parsed(body.decode())
    except (ValueError, RecursionError) as error:
        raise DeliveryRejected(f"the template's result has several lines and is not JSON: {error}") from None
    return body.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"


def lines_of(messages: Sequence[Message]) -> tuple[bytes, list[Answer]]:
    """The lines of a batch, and an answer for each message: those that can't be lines are rejected."""
    lines: list[bytes] = []
    answers: list[Answer] = []
    for message in messages:
        try:
            lines.append(line(message.body))
        except DeliveryRejected as error:
            answers.append(answer_to(error))
        else:
            answers.append(ACCEPTED)
    return b"".join(lines), answers


def _truncate_partial_line(file: int) -> None:
    """Remove a line that a crash left half written. Its event was not marked as delivered, so it is sent again."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return
    end = size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            os.ftruncate(file, start + found + 1)
            return
        end = start
    os.ftruncate(file, 0)
