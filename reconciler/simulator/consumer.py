"""An external service that takes events, goes down, comes back, and remembers what it was sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from reconciler.simulator.background import BackgroundServer
from reconciler.simulator.ports import free_port


@dataclass(frozen=True)
class Received:
    """One request that came in, and the status it was answered with."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    at: float

    @property
    def event_id(self) -> str:
        return self.headers.get("webhook-id", "")


Answer = tuple[int, dict[str, str], bytes]
ACCEPTED: Answer = (200, {}, b"")

PACE_S = 0.01
"""Between two looks of who waits: what is waited for is looked up in all that came in, which may be a lot."""


class Consumer:
    """`with Consumer() as consumer:` listens at `consumer.url`. `answer` decides what each request gets."""

    def __init__(self, *, port: int = 0) -> None:
        self.port = port
        self.answer: Callable[[dict[str, str], bytes], Answer] = lambda _headers, _body: ACCEPTED
        self.delay_s = 0.0
        self.requests: list[Received] = []
        self.accepted: list[Received] = []
        """What was answered with 2xx."""
        self._changed = threading.Condition()
        self._server: BackgroundServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    def start(self) -> None:
        """Listen: on the same port as before, if there was one."""
        self.port = self.port or free_port()
        self._server = BackgroundServer(self._app, name="consumer", port=self.port)
        self._server.start()

    def stop(self) -> None:
        """Go down: connections are refused from now on."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def wait_for(self, condition: Callable[[Consumer], bool], timeout_s: float = 20.0) -> bool:
        """Wait until something holds of what came in; False where it does not, and nothing was accepted for
        `timeout_s`: how fast things come in is the machine's business.
        """
        accepted, deadline = -1, 0.0
        while True:
            seen = len(self.requests)
            if condition(self):
                return True
            if len(self.accepted) != accepted:
                accepted, deadline = len(self.accepted), time.monotonic() + timeout_s
            if not self._more_than(seen, deadline - time.monotonic()):
                return condition(self)
            time.sleep(PACE_S)

    def _more_than(self, seen: int, timeout_s: float) -> bool:
        """Wait until there were more requests."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.requests) > seen, max(0.0, timeout_s))

    def __enter__(self) -> Consumer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":  # the sender was killed: this is not all of it
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if self.delay_s:
            time.sleep(self.delay_s)  # noqa: ASYNC251 - a slow service serves no one else meanwhile
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        status, extra, words = self.answer(headers, body)
        with self._changed:
            received = Received(scope["path"], headers, body, status, time.time())
            self.requests.append(received)
            if 200 <= status < 300:
                self.accepted.append(received)
            self._changed.notify_all()
        raw = [(name.encode(), value.encode()) for name, value in extra.items()]
        raw.append((b"content-length", str(len(words)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": words})
