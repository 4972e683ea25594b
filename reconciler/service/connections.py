"""Limits a web server's connections, against clients that hold them open: heads, bodies, answers that are not read,
and the number of connections.

uvicorn waits without limit for a request's head and body, accepts heads of any size (at a cost that grows with the
square of the size), and accepts connections until no file descriptor is left; then libuv drops new ones silently.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from enum import Enum
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.endpoint import AUTHENTICATED
from reconciler.events.times import Millis

MOST_CONNECTIONS = 4096
RESERVED_FILES = 96
"""File descriptors reserved for the ledger, the log, destinations, and GitLab."""
FEWEST_CONNECTIONS = 16
LOG_AGAIN_S = 10.0
"""The minimum time between two equal log lines, so that unauthenticated clients can't fill the log."""
UNREAD_S = 60.0
"""How long a client may read nothing of an answer that waits for it."""

_TLS = b"\x16\x03"
"""The first bytes of a TLS handshake. No HTTP request begins like this."""

log = structlog.get_logger(__name__)


class Connections:
    """All connections of one server. If there are too many, the oldest one without an authenticated or complete
    request is closed, so that unauthenticated clients can't occupy connections with unfinished requests.
    """

    def __init__(self, name: str, *, most: int | None = None) -> None:
        self._name = name
        self._most = most or min(MOST_CONNECTIONS, max(FEWEST_CONNECTIONS, _file_limit() - RESERVED_FILES))
        self._open: set[Bounded] = set()
        self._waiting: dict[Bounded, None] = {}
        """Connections that may be closed, in the order in which they began to wait."""
        self._logged: dict[str, tuple[float, int]] = {}

    def opened(self, one: Bounded) -> None:
        """Add a connection, and close another if there are too many."""
        self._open.add(one)
        self._waiting[one] = None
        if len(self._open) <= self._most:
            return
        oldest = next(iter(self._waiting))
        self.log_limited(
            "too many connections: closed the oldest without a complete request", connections=len(self._open)
        )
        self.closed(oldest)  # at once: the next new connection must find another
        oldest.give_up()

    def closed(self, one: Bounded) -> None:
        """Remove a connection."""
        self._open.discard(one)
        self._waiting.pop(one, None)

    def waits(self, one: Bounded) -> None:
        """The connection has no authenticated or complete request in progress."""
        if one in self._open:
            self._waiting[one] = None

    def works(self, one: Bounded) -> None:
        """The connection's request is complete, or its sender is authenticated."""
        self._waiting.pop(one, None)

    def check_descriptors(self) -> None:
        """Log when no file descriptor is left: new connections are then dropped silently."""
        try:
            os.close(os.dup(2))
        except OSError as error:
            self.log_limited("no file descriptors left: connections are dropped", reason=error.strerror)

    def log_limited(self, what: str, **about: Any) -> None:
        """Log something that anyone can cause, at most every LOG_AGAIN_S, with the number of suppressed lines."""
        last, more = self._logged.get(what, (-LOG_AGAIN_S, 0))
        now = time.monotonic()
        if now - last < LOG_AGAIN_S:
            self._logged[what] = (last, more + 1)
            return
        self._logged[what] = (now, 0)
        log.warning(what, server=self._name, **about, **({"suppressed": more} if more else {}))


class Waiting(Enum):
    """What a connection is waiting for."""

    REQUEST = "request"
    HEAD = "head"
    BODY = "body"


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol with limits. `protocol` creates subclasses with their values.

    A timer is set only if a request is incomplete after the received data was read: the usual request, which arrives
    in one piece, needs none.
    """

    all_of_them: Connections
    head_limit: int
    patience_s: dict[Waiting, float]
    unread_s: float

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting = self._timed = Waiting.REQUEST
        self._fruitless = 0
        """Bytes of the current head or trailer: received since a head began, or since the last byte of a body."""
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio passes no other
        super().connection_made(transport)
        # A proxy may open connections in advance, so an idle one is allowed.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self.all_of_them.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        self._unset_keepalive_if_required()
        self.all_of_them.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._waiting is Waiting.REQUEST and data.startswith(_TLS):
            self.all_of_them.log_limited("TLS on a plain HTTP port: use http://, or a proxy that terminates TLS")
            self.transport.close()
            return
        self._fruitless += len(data)
        idle_until = None if self.timeout_keep_alive_task is None else self.timeout_keep_alive_task.when()
        super().data_received(data)
        if self._waiting is Waiting.REQUEST:
            self._fruitless = 0
            self._stay_idle(idle_until)
        elif self._fruitless > self.head_limit:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request head too large")
        if self._timed is not self._waiting:
            self._stop_timer()
            self._timed = self._waiting
            if self._waiting in self.patience_s and not self.transport.is_closing():
                self._timer = self.loop.call_later(self.patience_s[self._waiting], self._late)

    def on_message_begin(self) -> None:
        self._waiting = Waiting.HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._waiting, self._fruitless = Waiting.BODY, 0
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > self.head_limit:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request head too large")
            return
        self.scope["extensions"] = {AUTHENTICATED: self._authenticated}  # type: ignore[dict-item]  # a function needs no dict around it
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._fruitless = 0
        if self.cycle is not None:  # else it was rejected
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._waiting = Waiting.REQUEST
        if self.cycle is not None:
            if not self.cycle.response_complete:
                self.all_of_them.works(self)
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete or self.cycle.more_body:  # else the next request has arrived
            self.all_of_them.waits(self)

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer is made. Without a limit, a stream whose client reads nothing
        would keep its place for ever.
        """
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def _await_reading(self) -> None:
        self._stop_unread_timer()
        left = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(self.unread_s, self._check_reading, left)

    def _check_reading(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._await_reading()
            return
        what = "a client stopped reading its answer: connection closed"
        self.all_of_them.log_limited(what, client=self.client and self.client[0])
        self.give_up()

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def give_up(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def _authenticated(self) -> None:
        self.all_of_them.works(self)

    def _stay_idle(self, until: float | None) -> None:
        """uvicorn stops the idle timer at any data, even a blank line or the rest of an answered body. Data that
        begins no request must not stop it, so the timer is set again to its old end.
        """
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            return
        end = self.loop.time() + self.timeout_keep_alive if until is None else until
        self.timeout_keep_alive_task = self.loop.call_at(end, self.timeout_keep_alive_handler)

    def _late(self) -> None:
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"request {self._waiting.value} timed out")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Answer, unless an answer has begun, and close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        self.all_of_them.log_limited(f"{why}: connection closed", client=self.client and self.client[0])
        in_progress = self.cycle is not None and not self.cycle.response_complete
        if not (in_progress and self.cycle.response_started):
            words = f"{why}\n".encode()
            head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            self.transport.write(f"{head}content-length: {len(words)}\r\nconnection: close\r\n\r\n".encode() + words)
        if in_progress:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(
    connections: Connections, *, head_limit: int, head: Millis, body: Millis, unread_s: float = UNREAD_S
) -> type[Bounded]:
    """The protocol class for one server: `head` and `body` are the time limits for each, in milliseconds."""
    bounds = {
        "all_of_them": connections,
        "head_limit": head_limit,
        "patience_s": {Waiting.HEAD: head / 1000, Waiting.BODY: body / 1000},
        "unread_s": unread_s,
    }
    return type("BoundedProtocol", (Bounded,), bounds)


def _file_limit() -> int:
    """The limit of open files, raised as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != soft:
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return soft
