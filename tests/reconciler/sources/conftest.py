"""A GitLab whose clock is set by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.config.models import GitLab, Receiver
from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World
from reconciler.sources.client import Client
from reconciler.sources.hooks import Hooks
from reconciler.sources.source import Source
from reconciler.sources.table import make_sources

NOW = times.from_iso("2026-11-24T12:00:00Z")


class Scene:
    """A simulated GitLab at a moment, and everything that asks it."""

    def __init__(self, gitlab: Simulator, world: World) -> None:
        self.gitlab = gitlab
        self.world = world
        self.now = NOW
        world.clock = lambda: self.now
        self.client = Client(GitLab.model_validate({"url": gitlab.url, "token": gitlab.api.token}))
        self.hooks = Hooks(self.client, Receiver.model_validate({"hooks": [{"token": "t"}]}))
        self.sources: dict[str, Source] = make_sources(self.client, self.hooks)
        self.project = self.client.project(42)

    def read(self, source: str, start: int, end: int | None = None) -> list[Sighting]:
        window = Interval(Millis(start), Millis(self.now + 1 if end is None else end))
        return [s for part in self.sources[source].read(self.project, window) for s in part.sightings]

    def complete(self, source: str, sightings: list[Sighting]) -> list[Sighting]:
        return self.sources[source].build(self.project, sightings, details=True).sightings

    def later(self, by: int) -> None:
        """Let time pass."""
        self.now = Millis(self.now + by)

    @property
    def asked(self) -> int:
        return sum(self.gitlab.api.requests.values())


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    world = World()
    world.add_project(42, "group/project")
    with Simulator(world) as gitlab:
        made = Scene(gitlab, world)
        monkeypatch.setattr(times, "now", lambda: made.now)
        yield made
