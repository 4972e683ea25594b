"""Reads a request's body within bounds, and parses it as the JSON object that GitLab sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from reconciler.events.fields import parsed


class RequestRejected(Exception):
    """The request is answered with this status and this text."""

    def __init__(self, status: int, why: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.retry_after_s = retry_after_s


class Disconnected(Exception):
    """The client closed the connection before its body was complete."""


class ByteBudget:
    """How many bytes of request bodies may be in memory at once, on their way to disk."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Take `size` bytes from the budget.

        Raises RequestRejected (503) if too few are left. GitLab then notes a failed delivery, and the
        reconciler recovers the event.
        """
        if self.used + size > self.limit and self.used:
            raise RequestRejected(503, "too many bytes are waiting for the disk; try again", retry_after_s=5)
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size


class Reservation:
    """The bytes that one body takes from a budget: from the one for unauthenticated requests until its sender is
    authenticated.
    """

    def __init__(self, budget: ByteBudget, unauthenticated: ByteBudget) -> None:
        self.size = 0
        self._budget = budget
        self._current = unauthenticated

    def take(self, size: int) -> None:
        """Reserve more bytes. Raises RequestRejected (503) if too few are left."""
        self._current.take(size)
        self.size += size

    def mark_authenticated(self) -> None:
        """Move the bytes to the main budget: the sender is authenticated.

        Raises RequestRejected (503) if too few are left.
        """
        if self._current is not self._budget:
            self._budget.take(self.size)
            self._current.release(self.size)
            self._current = self._budget

    def release(self) -> None:
        """Give the bytes back: the body is no longer needed."""
        self._current.release(self.size)


async def read(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    *,
    declared: bytes | None,
    limit: int,
    reservation: Reservation,
) -> bytes:
    """Read a body of at most `limit` bytes, and reserve its bytes.

    Raises RequestRejected with 413 as soon as the body is known to be too large, with 503 if the budget is used
    up, and Disconnected if the body ends early.
    """
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    chunk: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body"):
        _reserve(len(chunk), limit, reservation)
        return chunk
    chunks = []
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        _reserve(len(chunk), limit, reservation)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
        chunk = message.get("body", b"")


def _reserve(size: int, limit: int, reservation: Reservation) -> None:
    if reservation.size + size > limit:
        raise _too_large(limit)
    reservation.take(size)


def _too_large(limit: int) -> RequestRejected:
    return RequestRejected(
        413, f"the body is larger than {limit} bytes: raise receiver.max_body (GitLab sends up to 25 MB)"
    )


def check_json_object(body: bytes) -> None:
    """Raises RequestRejected (400) for anything that is not a JSON object."""
    try:
        value = parsed(body)
    except ValueError:
        raise RequestRejected(400, "the body is not JSON, or is nested too deeply") from None
    if not isinstance(value, dict):
        raise RequestRejected(400, "the body is JSON but not an object, so it is not a GitLab webhook")
