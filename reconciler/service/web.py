"""The service's web servers: their setup, and the restart of one whose socket or loop fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from reconciler.events.times import MINUTE, SECOND, Millis
from reconciler.service.connections import Connections, protocol
from reconciler.service.errors import ServiceError
from reconciler.service.listen_addresses import family, reason
from reconciler.service.probe import watch_answers

DRAIN_S = 10.0
"""How long a stop waits for what is in flight. The rest is done after the next start."""

FINISH_CHECK_S = 0.1

KEEP_ALIVE = Millis(75 * SECOND)
"""Longer than the usual 60 s of proxies: a request in transit is lost if the server closes first."""
HEAD_LIMIT_BYTES = 64 * 1024
HEAD_PATIENCE = Millis(10 * SECOND)
BODY_PATIENCE = MINUTE

log = structlog.get_logger(__name__)


class Switch:
    """An ASGI app that can be replaced while requests come in."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Server(uvicorn.Server):
    """uvicorn without signal handling: the receiver is only the first part to stop."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._open = connections

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            self._open.check_descriptors()
        return await super().on_tick(counter)


class WebServer:
    """Serves an app on a port. If `run` failed, it may be run again: it then makes a new server, on the same socket
    if that still listens, so that no connection is refused meanwhile. `probe` is a path that is cheap to answer.
    `keep_alive` is how long an idle connection stays open. `listener` is the socket, if it is bound already.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        keys: str,
        probe: str,
        keep_alive: Millis = KEEP_ALIVE,
        listener: socket.socket | None = None,
    ) -> None:
        self._keep_alive = keep_alive
        self._app = app
        self._host = host
        self._port: int = port if listener is None else listener.getsockname()[1]
        self._keys = keys
        self._probe = probe
        self._listener = listener
        self._servers: dict[asyncio.Task[None], uvicorn.Server] = {}
        """Running servers, and failed ones that still finish their connections."""
        self._stopping = False

    def listen(self) -> tuple[str, int]:
        """Bind the port, if not done yet. Returns the address. Raises ServiceError if it can't be bound."""
        address: tuple[str, int] = self._listening().getsockname()[:2]
        return address

    async def run(self) -> None:
        """Serve until `stop`, then wait to be cancelled. Raises if the server ends or stops answering."""
        address = self.listen()
        server = web_server(self._app, name=self._keys, keep_alive=self._keep_alive)
        serving = asyncio.create_task(server.serve(sockets=[self._listening().dup()]))
        self._servers[serving] = server
        watching = asyncio.create_task(watch_answers(*address, path=self._probe))
        try:
            await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping:
                await asyncio.Event().wait()
            (watching if watching.done() else serving).result()  # raises what ended it
            raise RuntimeError("the web server ended by itself")
        finally:
            watching.cancel()
            if not self._stopping:
                self._retire(serving, server)

    def close_connections_after_answers(self) -> None:
        """Have each client connect again for its next request: a load balancer then connects to another copy."""
        for server in self._servers.values():
            server.config.encoded_headers.append((b"connection", b"close"))
            server.server_state.default_headers = [*server.server_state.default_headers, (b"connection", b"close")]

    async def stop(self) -> None:
        """Accept no more connections, and wait for the open ones, at most twice DRAIN_S."""
        self._stopping = True
        for serving, server in list(self._servers.items()):
            server.should_exit = True
            if serving.done():
                self._retire(serving, server)
        if self._servers:
            await asyncio.wait(list(self._servers), timeout=2 * DRAIN_S)
        if self._listener is not None:
            self._listener.close()

    def force(self) -> None:
        """Stop waiting for open connections."""
        for server in self._servers.values():
            server.force_exit = True

    def _listening(self) -> socket.socket:
        one = self._listener
        if one is None or not is_listening(one):
            if one is not None:
                one.close()
            one = self._listener = listen(self._host, self._port, keys=self._keys)
            self._port = one.getsockname()[1]
        return one

    def _retire(self, serving: asyncio.Task[None], server: uvicorn.Server) -> None:
        """Let a replaced server accept no more connections, and finish the open ones."""
        for one in getattr(server, "servers", []):
            one.close()
        del self._servers[serving]
        task = asyncio.create_task(self._finish(serving, server))
        self._servers[task] = server
        task.add_done_callback(self._finished)

    async def _finish(self, serving: asyncio.Task[None], server: uvicorn.Server) -> None:
        """Give idle connections time for a request, unless the service is stopping: uvicorn closes them at once."""
        patience = asyncio.get_running_loop().time() + DRAIN_S
        while server.server_state.connections and not self._stopping:
            if asyncio.get_running_loop().time() > patience:
                break
            await asyncio.sleep(FINISH_CHECK_S)
        server.should_exit = True
        await asyncio.wait({serving})
        if not serving.cancelled() and serving.exception() is not None and server.started:
            await server.shutdown()  # it failed without closing its connections

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._servers.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log.warning("replaced web server did not stop cleanly", error=repr(task.exception()))


def listen(host: str, port: int, *, keys: str = "receiver") -> socket.socket:
    """Bind a port. Raises ServiceError, which names the config section `keys`, if it can't be bound."""
    try:
        return socket.create_server((host, port), family=family(host), backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ServiceError(
            f"can't listen on {host}:{port}: {reason(error)}; see {keys}.host and {keys}.port"
        ) from None


def is_listening(one: socket.socket) -> bool:
    """Whether a socket accepts connections."""
    try:
        return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def web_server(app: ASGIApp, *, name: str = "receiver", keep_alive: Millis = KEEP_ALIVE) -> uvicorn.Server:
    """A uvicorn server set up for speed: no access log, no proxy headers, no lifespan.

    `name` is in its log lines. Requests have time limits for head and body.
    """
    connections = Connections(name)
    return _Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            http=protocol(connections, head_limit=HEAD_LIMIT_BYTES, head=HEAD_PATIENCE, body=BODY_PATIENCE),
            proxy_headers=False,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=-(-keep_alive // SECOND),
            timeout_graceful_shutdown=round(DRAIN_S),
        ),
        connections,
    )
