"""The web server under the receiver: its port, and how it is set up."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

DRAIN_S = 10.0
"""How long a stop waits for what is in flight. What is not done then is done after the next start."""


class ServiceError(Exception):
    """The service can't start. The message says why."""


class Switch:
    """An ASGI app that another can take the place of while requests come in."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Server(uvicorn.Server):
    """uvicorn, leaving signals to us: the receiver is only the first thing to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int, *, keys: str = "receiver") -> socket.socket:
    """Bind first: a port that is taken is a user's mistake and deserves a clear answer, naming its `keys`."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ServiceError(f"can't listen on {host}:{port}: {reason}; see {keys}.host and {keys}.port") from None


def web_server(app: ASGIApp) -> uvicorn.Server:
    """The server that the receiver runs on, as it is set up for speed: no access log, no proxies, no lifespan."""
    return _Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            http="httptools",
            proxy_headers=False,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=round(DRAIN_S),
        )
    )
