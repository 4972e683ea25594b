"""Runs the simulated GitLab on a real port, in a thread of its own."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

import uvicorn

from reconciler.simulator.api import Api
from reconciler.simulator.hooks import Courier, Hook
from reconciler.simulator.world import World


class Simulator:
    """`with Simulator() as gitlab:` is a GitLab at `gitlab.url`."""

    def __init__(self, world: World | None = None, *, port: int = 0) -> None:
        self.world = world or World()
        self.courier = Courier()
        self.api = Api(self.world, self.courier)
        self.world.tell = self.courier.tell
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self.api.app(),
            date_header=False,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="simulator", daemon=True
        )

    def add_hook(self, project_id: int, url: str, *, token: str = "", signing_token: str = "") -> Hook:
        """Enter a webhook in a project's settings."""
        hook = Hook(len(self.courier.hooks) + 1, project_id, url, token, signing_token)
        self.courier.hooks[hook.id] = hook
        return hook

    def __enter__(self) -> Simulator:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.courier.close()
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()
