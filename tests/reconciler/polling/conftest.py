"""Everything that asks GitLab and writes the ledger, all of it real but GitLab; its clock is set by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.config.load import load
from reconciler.events import times
from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.times import Millis
from reconciler.ledger.coverage import gaps
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect
from reconciler.location import Location, PostgresUrl
from reconciler.polling.reconciling import reconciling
from reconciler.polling.schedule import expected
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World
from reconciler.sources.table import keeps

NOW = times.from_iso("2026-11-24T12:00:00Z")


class House:
    """A service without its receiver and its forwarder, on one ledger and one clock. Sections given replace the
    config's. The ledger is `location`, or else the config's.
    """

    def __init__(self, folder: Path, *, location: Location | None = None, **sections: Any) -> None:
        self.now = NOW
        self.file = folder / "config.yaml"
        self.file.write_text(
            yaml.safe_dump(
                {
                    "projects": [42],
                    "receiver": {"url": "http://127.0.0.1:9", "hooks": [{"token": "t"}]},
                    "ledger": {"url": location.value} if isinstance(location, PostgresUrl) else {"path": "ledger.db"},
                }
                | sections
            )
        )
        self.config = load(self.file, {})
        where = location or self.config.ledger.path
        self.db, self.reader = connect(where), connect(where, readonly=True)
        self.writer = Writer(self.db)
        self.ledger = Ledger(self.writer, self.reader)
        self.expected_tests = ExpectedTests()
        self.start()

    def start(self) -> None:
        """Build what asks GitLab, as after a restart."""
        self.polling = reconciling(self.config, ledger=self.ledger, expected_tests=self.expected_tests)
        self.poll = self.polling.poller.poll

    def later(self, by: int) -> None:
        """Let time pass."""
        self.now = Millis(self.now + by)

    def rows(self, sql: str) -> list[Any]:
        return self.reader.execute(sql).fetchall()

    def events(self) -> int:
        return int(self.rows("SELECT count(*) FROM events")[0][0])

    def gaps(self) -> list[gaps.Gap]:
        return gaps.gaps(self.reader, keeps=keeps(), expected=expected(self.config, self.now), now=self.now)

    async def close(self) -> None:
        self.polling.stop()
        await self.writer.close()
        self.reader.close()
        self.db.close()


class SimulatedHouse(House):
    """A house whose GitLab is the simulator, which has the house's clock."""

    def __init__(self, gitlab: Simulator, folder: Path, location: Location, **sections: Any) -> None:
        at_gitlab = {"gitlab": {"url": gitlab.url, "token": gitlab.api.token}}
        super().__init__(folder, location=location, **(at_gitlab | sections))
        self.gitlab = gitlab
        gitlab.world.clock = lambda: self.now

    @property
    def asked(self) -> int:
        return sum(self.gitlab.api.requests.values())


@pytest.fixture
def simulated() -> Iterator[Simulator]:
    world = World()
    world.add_project(42, "group/project")
    with Simulator(world) as simulator:
        yield simulator


MakeHouse = Callable[..., SimulatedHouse]


@pytest.fixture
async def make_house(
    simulated: Simulator, ledger_at: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeHouse]:
    made: list[SimulatedHouse] = []

    def make(**sections: Any) -> SimulatedHouse:
        house = SimulatedHouse(simulated, tmp_path, ledger_at, **sections)
        monkeypatch.setattr(times, "now", lambda: house.now)
        made.append(house)
        return house

    yield make
    for house in made:
        await house.close()
