"""Reading a request's body in a bounded way, and reading it as the JSON object that GitLab sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from reconciler.events.fields import parsed


class Refused(Exception):
    """The request gets this status and these words."""

    def __init__(self, status: int, why: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.retry_after_s = retry_after_s


class Disconnected(Exception):
    """The client went away before its body was complete."""


class Room:
    """How many bytes of bodies may be in memory at once, on their way to the ledger."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self, size: int) -> None:
        """Raises Refused (503) where there is no room: GitLab notes a failure, and the reconciler heals it."""
        if self.taken + size > self.limit and self.taken:
            raise Refused(503, "too much is waiting for the ledger; try again", retry_after_s=5)
        self.taken += size

    def give_back(self, size: int) -> None:
        self.taken -= size


class Held:
    """The room that one body takes: with strangers, until it is proven who sent it."""

    def __init__(self, room: Room, strangers: Room) -> None:
        self.size = 0
        self._room = room
        self._in = strangers

    def take(self, size: int) -> None:
        """Take more. Raises Refused (503) where there is no room."""
        self._in.take(size)
        self.size += size

    def prove(self) -> None:
        """It is known who sent it: it moves to where the others are. Raises Refused (503) where there is no room."""
        if self._in is not self._room:
            self._room.take(self.size)
            self._in.give_back(self.size)
            self._in = self._room

    def give_back(self) -> None:
        """The body is done with."""
        self._in.give_back(self.size)


async def read(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]], *, declared: bytes | None, limit: int, held: Held
) -> bytes:
    """Read a body of at most `limit` bytes, taking room for it.

    Raises Refused with 413 as soon as the body is known to be too large, with 503 where there is no room, and
    Disconnected where it breaks off.
    """
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    chunk: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body"):
        _hold(len(chunk), limit, held)
        return chunk
    chunks = []
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        _hold(len(chunk), limit, held)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
        chunk = message.get("body", b"")


def _hold(size: int, limit: int, held: Held) -> None:
    if held.size + size > limit:
        raise _too_large(limit)
    held.take(size)


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit} bytes: raise receiver.max_body (GitLab sends up to 25 MB)")


def json_object(body: bytes) -> tuple[dict[str, Any], str]:
    """The body as an object, and as text with exactly its bytes.

    Raises Refused (400) for anything that is no JSON object.
    """
    try:
        text, value = body.decode(), parsed(body)
    except ValueError:
        raise Refused(400, "the body is no JSON, or nested too deeply") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is JSON but no object: no webhook of GitLab's")
    return value, text
