"""What a web server does about strangers that hold connections: bounds on heads, bodies and their number.

uvicorn waits for ever for a request's head and for its body, takes heads of any size (at a cost that grows with the
square of it), and accepts connections until no file descriptor is left; then libuv drops new ones without a word.
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

from receiver.endpoint import PROVEN
from reconciler.events.times import Millis

MOST_CONNECTIONS = 4096
RESERVED_FILES = 96
"""File descriptors that connections leave to the ledger, the log, destinations, and GitLab."""
FEWEST_CONNECTIONS = 16
SAY_AGAIN_S = 10.0
"""Between two lines of one kind in the log: strangers must not fill it."""

_TLS = b"\x16\x03"
"""How a TLS handshake begins, and no request."""

log = structlog.get_logger(__name__)


class Connections:
    """All connections of one server. Where there are too many, the oldest gives way of those without a request that
    is proven or has come to its end: strangers must not hold on to places by what they leave unfinished.
    """

    def __init__(self, name: str, *, most: int | None = None) -> None:
        self._name = name
        self._most = most or min(MOST_CONNECTIONS, max(FEWEST_CONNECTIONS, _file_limit() - RESERVED_FILES))
        self._open: set[Bounded] = set()
        self._waiting: dict[Bounded, None] = {}
        """Those that may give way, as they began to wait."""
        self._said: dict[str, tuple[float, int]] = {}

    def opened(self, one: Bounded) -> None:
        """Take one in, and close another where there are too many."""
        self._open.add(one)
        self._waiting[one] = None
        if len(self._open) <= self._most:
            return
        oldest = next(iter(self._waiting))
        self.say("too many connections: closed the oldest without a complete request", connections=len(self._open))
        self.closed(oldest)  # now: the next that comes must find another
        oldest.give_up()

    def closed(self, one: Bounded) -> None:
        """Forget one."""
        self._open.discard(one)
        self._waiting.pop(one, None)

    def waits(self, one: Bounded) -> None:
        """It has no request under way that is proven or whole."""
        if one in self._open:
            self._waiting[one] = None

    def works(self, one: Bounded) -> None:
        """Its request is whole, or who asks is proven."""
        self._waiting.pop(one, None)

    def look(self) -> None:
        """Say when there are no file descriptors left: new connections are dropped then, and nobody hears of it."""
        try:
            os.close(os.dup(2))
        except OSError as error:
            self.say("no file descriptors left: connections are dropped", reason=error.strerror)

    def say(self, what: str, **about: Any) -> None:
        """Log something that strangers can bring about: now and then, with how often it happened meanwhile."""
        last, more = self._said.get(what, (-SAY_AGAIN_S, 0))
        now = time.monotonic()
        if now - last < SAY_AGAIN_S:
            self._said[what] = (last, more + 1)
            return
        self._said[what] = (now, 0)
        log.warning(what, server=self._name, **about, **({"suppressed": more} if more else {}))


class Waiting(Enum):
    """What a connection waits for."""

    REQUEST = "request"
    HEAD = "head"
    BODY = "body"


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol, with bounds. Made by `protocol`, which sets them.

    Timers are set where something is missing after what came was read: the usual request, which comes in one piece,
    needs none.
    """

    all_of_them: Connections
    head_limit: int
    patience_s: dict[Waiting, float]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting = self._timed = Waiting.REQUEST
        self._fruitless = 0
        """Bytes that came since a head began, or since the last byte of a body: a head, or a trailer."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Nothing has come yet: it may be one that a proxy opens ahead.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self.all_of_them.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unset_keepalive_if_required()
        self.all_of_them.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._waiting is Waiting.REQUEST and data.startswith(_TLS):
            self.all_of_them.say("TLS on a plain HTTP port: use http://, or a proxy that terminates TLS")
            self.transport.close()
            return
        self._fruitless += len(data)
        idle_until = None if self.timeout_keep_alive_task is None else self.timeout_keep_alive_task.when()
        super().data_received(data)
        if self._waiting is Waiting.REQUEST:
            self._fruitless = 0
            self._stay_idle(idle_until)
        elif self._fruitless > self.head_limit:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "a request's head is too large")
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
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "a request's head is too large")
            return
        self.scope["extensions"] = {PROVEN: self._proven}  # type: ignore[dict-item]  # a function needs no dict around it
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._fruitless = 0
        if self.cycle is not None:  # else it was refused
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._waiting = Waiting.REQUEST
        if self.cycle is not None:
            if not self.cycle.response_complete:
                self.all_of_them.works(self)
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete or self.cycle.more_body:  # else the next request is here already
            self.all_of_them.waits(self)

    def give_up(self) -> None:
        """Close it at once, whatever it was about to ask."""
        self.transport.abort()

    def _proven(self) -> None:
        self.all_of_them.works(self)

    def _stay_idle(self, until: float | None) -> None:
        """uvicorn stops the clock of an idle connection at whatever comes, be it a blank line, or the rest of a body
        that was answered already. What begins no request does not stop it: it goes on to where it would have ended.
        """
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            return
        end = self.loop.time() + self.timeout_keep_alive if until is None else until
        self.timeout_keep_alive_task = self.loop.call_at(end, self.timeout_keep_alive_handler)

    def _late(self) -> None:
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"a request's {self._waiting.value} did not come in time")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Answer, unless there is an answer already, and close."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        self.all_of_them.say(f"{why}: its connection is closed", client=self.client and self.client[0])
        under_way = self.cycle is not None and not self.cycle.response_complete
        if not (under_way and self.cycle.response_started):
            words = f"{why}\n".encode()
            head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            self.transport.write(f"{head}content-length: {len(words)}\r\nconnection: close\r\n\r\n".encode() + words)
        if under_way:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(connections: Connections, *, head_limit: int, head: Millis, body: Millis) -> type[Bounded]:
    """The protocol's class for one server: `head` and `body` are how long each may take, in milliseconds."""
    bounds = {
        "all_of_them": connections,
        "head_limit": head_limit,
        "patience_s": {Waiting.HEAD: head / 1000, Waiting.BODY: body / 1000},
    }
    return type("BoundedProtocol", (Bounded,), bounds)


def _file_limit() -> int:
    """How many files this process may have open: as many as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != soft:
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return soft
