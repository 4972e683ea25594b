"""What reconciling costs GitLab: requests for each recovered event, and for a thousand quiet projects."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from unittest import mock

from benchmarks.quick import size
from benchmarks.table import Row
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect
from reconciler.polling.reconciling import Reconciling, reconciling
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World
from reconciler.sources.table import SOURCES

QUIET, ACTIVE = size(950, 95), size(50, 5)
MINUTES = size(15, 5)
EVENTS = 30


def measure() -> list[Row]:
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    return [*await _thousand_projects(), *await _recovered()]


class _Clock:
    """The time of both GitLab and the service: the intervals between polls need not be waited for."""

    def __init__(self) -> None:
        self.now = times.now()

    def __call__(self) -> int:
        return self.now


@asynccontextmanager
async def _service(gitlab: Simulator, clock: _Clock, projects: list[int]) -> AsyncIterator[Reconciling]:
    gitlab.world.clock = clock
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(times, "now", clock))
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ledger.db"
        config = Config.model_validate(
            {
                "gitlab": {"url": gitlab.url, "token": gitlab.api.token},
                "projects": projects,
                "receiver": {"hooks": [{"token": "t"}]},
            }
        )
        db = stack.enter_context(closing(connect(path)))
        reader = stack.enter_context(closing(connect(path, readonly=True)))
        ledger = Ledger(Writer(db), reader)
        polling = reconciling(config, ledger=ledger)
        try:
            yield polling
        finally:
            polling.stop()
            await ledger.close()


def _asked(gitlab: Simulator) -> int:
    return sum(gitlab.api.requests.values())


async def _thousand_projects() -> list[Row]:
    """A round of a service with 1,000 projects, 50 of them active and without a webhook."""
    world, clock = World(), _Clock()
    names = list(range(1, QUIET + ACTIVE + 1))
    for number in names:
        world.add_project(number, f"group/p{number}")
    with Simulator(world) as gitlab:
        async with _service(gitlab, clock, names) as polling:
            await polling.schedule.catch_up()
            before, looks, found = _asked(gitlab), 0, 0
            for minute in range(MINUTES + 1):
                clock.now += 60_000
                if minute < MINUTES:
                    for number in names[:ACTIVE]:
                        world.push(number)
                asked = _asked(gitlab)
                due = await polling.schedule.due()
                looks += _asked(gitlab) - asked
                for counts in await asyncio.gather(*(polling.poller.poll(name) for name in due)):
                    found += counts.new if counts else 0
            a_minute = (_asked(gitlab) - before) / (MINUTES + 1)
    each = len(names) * len(SOURCES)
    return [
        Row("1,000 projects, 50 active: requests a minute", f"{a_minute:,.0f}", f"{each:,} (each polled)",
            a_minute / each, ""),
        Row("1,000 projects, none active: requests a minute", f"{await _all_quiet():,.0f}", "", None, "< 1,000"),
        Row("1,000 projects: to find the active ones, a minute", f"{looks / (MINUTES + 1):.1f}", "", None, ""),
        Row("1,000 projects: events recovered", f"{found}", f"{ACTIVE * MINUTES} happened", None, "all"),
    ]  # fmt: skip


async def _all_quiet() -> float:
    world, clock = World(), _Clock()
    names = list(range(1, QUIET + ACTIVE + 1))
    for number in names:
        world.add_project(number, f"group/p{number}")
    with Simulator(world) as gitlab:
        async with _service(gitlab, clock, names) as polling:
            await polling.schedule.catch_up()
            before = _asked(gitlab)
            for _ in range(MINUTES):
                clock.now += 60_000
                await asyncio.gather(*(polling.poller.poll(name) for name in await polling.schedule.due()))
            return (_asked(gitlab) - before) / MINUTES


async def _recovered() -> list[Row]:
    """A project without its service for a while: what GitLab's log has, and what was in no log and is rebuilt."""
    rows = []
    for what, off in (("from GitLab's log", False), ("rebuilt (webhook off)", True)):
        world, clock = World(), _Clock()
        world.add_project(1, "group/p1")
        with Simulator(world) as gitlab:
            hook = gitlab.add_hook(1, "http://127.0.0.1:9/webhooks/gitlab")
            hook.first_pause_s = 86_400.0 if off else 0.0
            hook.failures = 4 if off else 0
            hook.disabled_until = clock.now / 1000 + 86_400 if off else 0.0
            async with _service(gitlab, clock, [1]) as polling:
                await polling.poller.poll(1)
                for _ in range(EVENTS):
                    clock.now += 60_000
                    world.anything(1)
                await asyncio.to_thread(gitlab.courier.settle)
                clock.now += 60_000
                before = _asked(gitlab)
                counts = await polling.poller.poll(1)
                asked = _asked(gitlab) - before
        new = counts.new if counts else 0
        rows.append(Row(f"requests per recovered event: {what}", f"{asked / max(new, 1):.2f}",
                        f"{asked} requests, {new} events", None, ""))  # fmt: skip
    return rows
