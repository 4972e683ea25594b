"""What reconciling costs GitLab: requests for each recovered event, and for a thousand quiet projects."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.table import Row
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World

QUIET, ACTIVE = 950, 50
MINUTES = 15
EVENTS_A_PROJECT = 20


def measure() -> list[Row]:
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    return [*await _thousand_projects(), *await _recovered()]


async def _thousand_projects() -> list[Row]:
    """A round of a service with 1,000 projects, 50 of them active and without a webhook."""
    world = World()
    names = list(range(1, QUIET + ACTIVE + 1))
    for number in names:
        world.add_project(number, f"group/p{number}")
    now = world.clock()
    world.clock = lambda: now
    with Simulator(world) as gitlab, tempfile.TemporaryDirectory() as folder:
        async with _parts(gitlab, Path(folder), names) as parts:
            await parts.rounds.heal()
            before = sum(gitlab.api.requests.values())
            looks = found = 0
            for _ in range(MINUTES):
                now += 60_000
                for number in names[:ACTIVE]:
                    world.push(number)
                asked = sum(gitlab.api.requests.values())
                due = await parts.rounds.due()
                looks += sum(gitlab.api.requests.values()) - asked
                for tally in await asyncio.gather(*(parts.poller.poll(name) for name in due)):
                    found += tally.new if tally else 0
            a_minute = (sum(gitlab.api.requests.values()) - before) / MINUTES
    happened = ACTIVE * MINUTES
    return [
        Row("1,000 projects, 950 quiet: requests a minute", f"{a_minute:,.0f}",
            f"{len(names) * 8:,} (each polled)", a_minute / (len(names) * 8), "< 1,000"),
        Row("of them to find the active ones", f"{looks / MINUTES:.1f}", "", None, ""),
        Row("events recovered in that round", f"{found}", f"{happened} happened but for the last minute's", None,
            "all settled"),
    ]  # fmt: skip


async def _recovered() -> list[Row]:
    """A night without the service: what GitLab's log has, and what was in no log and is rebuilt."""
    rows = []
    for what, off in (("GitLab's log", False), ("rebuilt, webhook off", True)):
        world = World()
        world.add_project(1, "group/p1")
        now = world.clock()
        world.clock = lambda now=now: now  # type: ignore[misc]
        with Simulator(world) as gitlab, tempfile.TemporaryDirectory() as folder:
            hook = gitlab.add_hook(1, "http://127.0.0.1:9/webhooks/gitlab")
            hook.first_pause_s = 86_400.0 if off else 0.0
            async with _parts(gitlab, Path(folder), [1]) as parts:
                await parts.poller.poll(1)
                for step in range(EVENTS_A_PROJECT):
                    world.clock = lambda at=now + step * 60_000: at  # type: ignore[misc]
                    world.anything(1)
                await asyncio.to_thread(gitlab.courier.settle)
                before = sum(gitlab.api.requests.values())
                tally = await parts.poller.poll(1)
                asked = sum(gitlab.api.requests.values()) - before
        new = tally.new if tally else 0
        rows.append(Row(f"requests per recovered event: {what}", f"{asked / max(new, 1):.2f}",
                        f"{asked} requests, {new} events", None, ""))  # fmt: skip
    return rows
