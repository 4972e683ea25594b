"""Runs the simulated GitLab on a real port, in a thread of its own."""

from __future__ import annotations

from types import TracebackType

from reconciler.simulator.api import Api
from reconciler.simulator.background import BackgroundServer
from reconciler.simulator.hooks import Courier, Hook
from reconciler.simulator.world import World


class Simulator:
    """`with Simulator() as gitlab:` is a GitLab at `gitlab.url`."""

    def __init__(self, world: World | None = None, *, port: int = 0) -> None:
        self.world = world or World()
        self.courier = Courier()
        self.api = Api(self.world, self.courier)
        self.world.tell = self.courier.tell
        self.courier.is_in = self.world.is_in
        # Date is the world's, not the machine's: the API writes it.
        self._server = BackgroundServer(self.api.app(), name="simulator", port=port, date_header=False)
        self.url = f"http://127.0.0.1:{self._server.port}"

    def add_hook(self, project_id: int, url: str, *, token: str = "", signing_token: str = "") -> Hook:
        """Enter a webhook in a project's settings."""
        return self.courier.add(Hook(0, project_id, url, token, signing_token, clock=self._now))

    def _now(self) -> int:
        """The world's clock, whichever it has by then."""
        return self.world.clock()

    def __enter__(self) -> Simulator:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.courier.close()
        self._server.stop()
