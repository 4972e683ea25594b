"""The dashboard's web server: a port of its own, so that who reaches the receiver does not reach it."""

from __future__ import annotations

import asyncio

import structlog
from starlette.types import ASGIApp

from reconciler.config.models import Admin
from reconciler.dashboard.stream import Stream
from reconciler.service.web import listen, web_server

log = structlog.get_logger(__name__)


class AdminServer:
    """Serves the dashboard where the config gives it a port.

    Raises ServiceError where the port can't be had.
    """

    def __init__(self, config: Admin, app: ASGIApp, stream: Stream) -> None:
        self._stream = stream
        self._listener = None if config.port is None else listen(config.host, config.port, keys="admin")
        self._server = web_server(app)
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Serve until `stop`."""
        if self._listener is None:
            await self._stopped.wait()
            return
        host, port = self._listener.getsockname()[:2]
        log.info("the dashboard is ready", url=f"http://{host}:{port}")
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """End, streams first: they would last for ever."""
        self._stream.stop()
        self._server.should_exit = True
        self._stopped.set()
