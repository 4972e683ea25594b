"""An ASGI app on a real port, in a thread of its own."""

from __future__ import annotations

import socket
import threading
from typing import Any

import uvicorn

STOP_S = 10.0


class BackgroundServer:
    """Listens from `start` to `stop`. Port 0 takes a free one; `port` says which."""

    def __init__(self, app: Any, *, name: str, port: int = 0, date_header: bool = True) -> None:
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            interface="asgi3",
            date_header=date_header,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name=name, daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it: connections are refused from now on."""
        self._server.should_exit = True
        self._thread.join(timeout=STOP_S)
        self._socket.close()
