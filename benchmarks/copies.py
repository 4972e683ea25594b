"""What one, two and three copies acknowledge, record and deliver with a ledger in PostgreSQL, and one with SQLite."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop
import yaml

from benchmarks.burst import acknowledge
from benchmarks.load import TOKEN
from benchmarks.material import fill, ledger, sightings
from benchmarks.quick import size
from benchmarks.receiver import running
from benchmarks.table import Row
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.scratch import scratch_ledger
from reconciler.location import Location, PostgresUrl
from tests.support.ledgers import server

WEBHOOKS = size(40_000, 2_000)
EVENTS = size(10_000, 3_000)
"""Of the backlog that is delivered, to each of the destinations: it must outlast the start of the copies."""
DESTINATIONS = ("one", "two", "three")
MOST_COPIES = 3
PAUSE_S = 0.1
_RECORDED = "SELECT count(*) FROM sightings"
_DELIVERED = "SELECT count(*) FROM deliveries WHERE state = 'delivered'"


class Figures(msgspec.Struct, frozen=True):
    """What so many copies do in a second. `p99_ms` is of an acknowledgement, `event_bytes` what an event of 4 KB
    takes in the ledger, with its deliveries.
    """

    engine: str
    copies: int
    acknowledged: float
    p99_ms: float
    recorded: float
    delivered: float
    event_bytes: float

    @property
    def name(self) -> str:
        if self.engine == "SQLite":
            return self.engine
        return f"{self.engine}, {self.copies} {'copy' if self.copies == 1 else 'copies'}"


def figures() -> list[Figures]:
    """All of them, measured one after the other."""
    return [_measured("SQLite", 1), *(_measured("PostgreSQL", count) for count in range(1, MOST_COPIES + 1))]


def measure() -> list[Row]:
    """A row for each figure; the ratio is that to SQLite's."""
    found = figures()
    rows = []
    figure_of: dict[str, Callable[[Figures], float]] = {
        "acknowledged": lambda one: one.acknowledged,
        "recorded": lambda one: one.recorded,
        f"delivered to {len(DESTINATIONS)} destinations": lambda one: one.delivered,
    }
    for what, of in figure_of.items():
        for one in found:
            against = "" if one is found[0] else f"{of(found[0]):,.0f}/s (SQLite)"
            ratio = None if one is found[0] else of(one) / of(found[0])
            rows.append(Row(f"copies: {what}, {one.name}", f"{of(one):,.0f}/s", against, ratio, ""))
    rows += [
        Row(f"copies: p99 of an acknowledgement, {one.name}", f"{one.p99_ms:.1f} ms", "", None, "") for one in found
    ]
    return rows


def _measured(engine: str, count: int) -> Figures:
    with (
        tempfile.TemporaryDirectory() as folder,
        _place(engine, Path(folder)) as location,
        _copies(Path(folder), location, count, []) as ports,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        began = time.perf_counter()
        took, p99_ms = runner.run(acknowledge(ports, WEBHOOKS))
        _until(location, _RECORDED, WEBHOOKS)
        recorded = WEBHOOKS / (time.perf_counter() - began)
    delivered, event_bytes = _drained(engine, count)
    return Figures(engine, count, WEBHOOKS / took, p99_ms, recorded, delivered, event_bytes)


def _drained(engine: str, count: int) -> tuple[float, float]:
    """Deliveries a second of a backlog that waits for the copies, and the bytes of an event."""
    total = EVENTS * len(DESTINATIONS)
    with (
        tempfile.TemporaryDirectory() as folder,
        _place(engine, Path(folder)) as location,
        running("read only") as (target, _),
    ):
        with closing(ledger(location, *DESTINATIONS, ordering="none")) as db:
            fill(db, sightings(EVENTS, seed=5))
        to = [
            {"name": name, "url": f"http://127.0.0.1:{target}/", "allow_private": True, "ordering": "none"}
            for name in DESTINATIONS
        ]
        with _copies(Path(folder), location, count, to):
            before = _until(location, _DELIVERED, 1)
            began = time.perf_counter()
            _until(location, _DELIVERED, total)
            took = time.perf_counter() - began
        with opened(location, readonly=True) as db:
            return (total - before) / took, db.size_bytes() / EVENTS


@contextmanager
def _place(engine: str, folder: Path) -> Iterator[Location]:
    if engine == "SQLite":
        yield folder / "ledger.db"
        return
    with scratch_ledger(server(), prefix="benchmark") as url:
        yield url


@contextmanager
def _copies(folder: Path, location: Location, count: int, destinations: Sequence[Any]) -> Iterator[list[int]]:
    """Copies of the service. Gives the ports on which they receive, once one of them records."""
    where = {"url": location.value} if isinstance(location, PostgresUrl) else {"path": str(location)}
    config = {"receiver": {"port": 0, "hooks": [{"token": TOKEN}]}, "ledger": where, "destinations": destinations}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with ExitStack() as stack:
        ports = []
        for number in range(count):
            log = folder / f"log-{number}"
            with log.open("w") as written:
                process = subprocess.Popen(
                    [sys.executable, "-m", "reconciler", "serve", "-c", str(file)], stderr=written
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            ports.append(int(_logged(log, "listening", process)["port"]))
            if number == 0:
                _logged(log, "ready", process)
        yield ports


def _logged(log: Path, event: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if (found := json.loads(line))["event"] == event:
                return dict(found)
        time.sleep(PAUSE_S)
    raise RuntimeError(log.read_text())


def _until(location: Location, sql: str, count: int) -> int:
    """Wait until there are so many. Returns how many there are then."""
    while True:
        with opened(location, readonly=True) as db:
            found: int = db.execute(sql).fetchone()[0]
        if found >= count:
            return found
        time.sleep(PAUSE_S)
