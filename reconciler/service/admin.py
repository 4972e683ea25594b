"""The ports of the dashboard and of Prometheus. They are separate from the receiver's port, so that its senders can't
reach them."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from starlette.types import ASGIApp

from reconciler.dashboard.stream import Stream
from reconciler.service.errors import ServiceError
from reconciler.service.probe import watch_answers
from reconciler.service.web import WebServer

PROBE = "/favicon.ico"
"""A path that is cheap to answer for both."""

log = structlog.get_logger(__name__)


class AdminServer:
    """Serves the dashboard."""

    def __init__(self, host: str, port: int, app: ASGIApp, stream: Stream) -> None:
        self._stream = stream
        self._server = WebServer(app, host, port, keys="admin", probe=PROBE)

    async def run(self) -> None:
        """Serve until `stop`. Raises ServiceError if the port can't be bound, and if the server ends."""
        host, port = self._server.listen()
        log.info("dashboard ready", url=f"http://{host}:{port}")
        await self._server.run()

    async def stop(self) -> None:
        """Stop, the streams first: they would never end."""
        self._stream.stop()
        await self._server.stop()


async def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> None:
    """Serve `/metrics` from threads until cancelled.

    Raises ServiceError if the port can't be bound, NoAnswer if it stops answering.
    """
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ServiceError(f"can't listen on {host}:{port}: {error.strerror}; see metrics.port") from None
    try:
        await watch_answers(host, port, path=PROBE)
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
