"""Fixtures: a simulated GitLab, a consumer, and the real service between them."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from reconciler.location import Location, PostgresUrl
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from tests.support.effort import THOROUGH, tries
from tests.support.ledgers import ENGINES, NewLedger, ledger_location, new_ledgers
from tests.support.service import TOKEN, Service

pytest_plugins = ["tests.support.engines"]

# How long an example takes proves nothing.
settings.register_profile("any machine", deadline=None, max_examples=tries(50))
settings.load_profile("any machine")

IN_MEMORY = Path("/dev/shm")
ROOM = 2**31


def pytest_configure() -> None:
    """Keep the tests' files in memory where there is room: a ledger waits for its disk many times, and what is killed
    here are processes, never the machine.
    """
    if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, those of different files in different workers: one that begins last would run alone in
    the end.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in long))}
    rest = [item for item in items if not item.get_closest_marker("long")]
    ordered: list[pytest.Item] = []
    for worker in range(workers):  # each gets one part of the list at first
        ordered += [item for item in long if files[item.path] % workers == worker]
        ordered += rest[worker * len(rest) // workers : (worker + 1) * len(rest) // workers]
    items[:] = ordered
    if THOROUGH:
        for item in items:
            item.add_marker(pytest.mark.timeout(3600), append=False)


def pytest_collection_finish() -> None:
    """What is here before the first test stays: the collector need not look at it after each."""
    gc.collect()
    gc.freeze()


PAYLOADS = Path(__file__).parent / "data" / "payloads"
PROJECT = 42
PATH = "group/project"


@pytest.fixture(autouse=True)
def logging_of_its_own() -> Iterator[None]:
    """A command that ran in this process has set up its logging: the next test begins without it."""
    yield
    if not structlog.is_configured():
        return
    structlog.reset_defaults()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("reconciler", "receiver") and hasattr(module, "log"):
            vars(module.log).pop("bind", None)  # the logger that it keeps from its first use on


@pytest.fixture(autouse=True, scope="module")
def what_is_here_stays() -> None:
    """What earlier files' tests left in memory, as caches: the collector need not look at it after each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """What a test forgot to close is found now, so that it fails this test and not a later one."""
    yield
    gc.collect()


@pytest.fixture
def gitlab() -> Iterator[Simulator]:
    with Simulator() as simulator:
        simulator.world.add_project(PROJECT, PATH)
        yield simulator


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    with Consumer() as running:
        yield running


MakeService = Callable[..., Service]


@pytest.fixture
def make_service(tmp_path: Path, engine: str) -> Iterator[MakeService]:
    """Makes services that are killed at the end of the test. Keys given replace the config's sections."""
    made: list[Service] = []
    numbers = itertools.count()
    ledgers = ExitStack()

    def make(**sections: Any) -> Service:
        folder = tmp_path / f"service-{next(numbers)}"
        folder.mkdir()
        config: dict[str, Any] = {
            "receiver": {"port": free_port(), "hooks": [{"name": "default", "token": TOKEN}]},
        }
        if "ledger" not in sections:
            location = ledgers.enter_context(ledger_location(engine, folder))
            config["ledger"] = (
                {"url": location.value} if isinstance(location, PostgresUrl) else {"path": location.name}
            )
        service = Service(folder, config | sections)
        made.append(service)
        return service

    with ledgers:  # they are emptied for the next test
        yield make
        for service in made:
            if service.process is not None and service.process.poll() is None:
                service.kill()
            service.looker.close()


EVENTS_ONLY: dict[str, Any] = {"sources": ["project_events"]}


def to_consumer(consumer: Consumer, **more: Any) -> dict[str, Any]:
    """A destination's config."""
    retry = {"initial_delay": "50ms", "max_delay": "400ms"}
    made = {"name": "consumer", "url": consumer.url, "allow_private": True, "retry": retry}
    return made | {"breaker": {"max_delay": "400ms"}} | more


def at_gitlab(gitlab: Simulator, **reconcile: Any) -> dict[str, Any]:
    """Config sections for a simulated GitLab whose past is read at once."""
    return {
        "gitlab": {"url": gitlab.url, "token": gitlab.api.token},
        "projects": [PROJECT],
        "reconcile": {"interval": "1s", "grace_period": "1ms", "overlap": "10m", **reconcile},
    }


@pytest.fixture(params=ENGINES)
def ledger_at(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    """Where a test may make a ledger: once in SQLite, once in PostgreSQL."""
    with ledger_location(request.param, tmp_path) as location:
        yield location


@pytest.fixture(scope="module", params=ENGINES)
def new_ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewLedger]:
    """Opens a ledger without events, for each example of a test: once in SQLite, once in PostgreSQL."""
    with new_ledgers(request.param, tmp_path_factory.mktemp("ledgers")) as new:
        yield new
