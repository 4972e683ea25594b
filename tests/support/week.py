"""A week of a whole GitLab, and a service that lives through it: all real but the clock and GitLab itself."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.times import DAY, HOUR, MINUTE, Millis
from reconciler.ledger.coverage import gaps
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect
from reconciler.location import Location
from reconciler.polling.reconciling import Reconciling, reconciling
from reconciler.service.web import web_server
from reconciler.simulator.hooks import Hook
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from reconciler.simulator.things import Thing
from reconciler.simulator.world import World
from reconciler.sources.table import keeps
from tests.support.receiving import receiving

START = times.from_iso("2026-11-02T00:00:00Z")
PROJECTS = {100 + n: f"group/project-{n}" for n in range(10)}
TOKEN = "week"
ROUND = 12 * HOUR


@dataclass
class Script:
    """What happens, decided before it does: the same in every run. Steps are (when, what)."""

    world: World
    hooks: dict[int, Hook]
    seed: int
    days: int
    busy: int
    """How often a day something begins in a project."""
    steps: list[tuple[Millis, Callable[[], object]]] = field(default_factory=list)

    def write(self) -> list[tuple[Millis, Callable[[], object]]]:
        dice = random.Random(self.seed)
        for project in self.world.projects:
            for _ in range(self.days * self.busy):
                at = Millis(START + dice.randrange(self.days * DAY - 3 * HOUR))
                story = dice.choice(STORIES)
                story(self, project, at, dice)
        return sorted(self.steps, key=lambda step: step[0])

    def double(self, project: int) -> None:
        """The next delivery is made twice, if it is made at all."""
        for hook in self.hooks.values():
            if hook.project_id == project:
                hook.faults.double = 1

    def at(self, when: int, what: Callable[[], object]) -> None:
        self.steps.append((Millis(when), what))


def _pushes(s: Script, p: int, at: Millis, dice: random.Random) -> None:
    branch, world = f"b{dice.randrange(3)}", s.world
    if dice.random() < 0.3:  # GitLab has been seen to send a push twice
        s.at(at, lambda: s.double(p))
    s.at(at, lambda: world.push(p, branch))
    s.at(at + 7 * MINUTE, lambda: world.push(p))
    s.at(at + 9 * MINUTE, lambda: world.tag(p, f"v{at}"))
    s.at(at + 50 * MINUTE, lambda: world.bulk_push(p))
    if dice.random() < 0.3:
        s.at(at + 70 * MINUTE, lambda: world.delete_ref(p, f"refs/tags/v{at}"))


def _issue(s: Script, p: int, at: Millis, dice: random.Random) -> None:
    world, kind = s.world, dice.choice(["issue", "issue", "work_item"])
    confidential, held = dice.random() < 0.2, list[Thing]()
    s.at(at, lambda: held.append(world.issue(p, f"Issue {at}", kind)))

    def does(action: str, **more: Any) -> Callable[[], object]:
        return lambda: world.issue_does(p, held[0], action, kind=kind, confidential=confidential, **more)

    s.at(at + 5 * MINUTE, does("update", edit="label"))
    s.at(at + 11 * MINUTE, does("update", edit="title"))
    s.at(at + 20 * MINUTE, does("close"))
    s.at(at + 45 * MINUTE, does("reopen"))
    s.at(at + 60 * MINUTE, lambda: world.emoji(p, held[0]))
    s.at(at + 80 * MINUTE, does("close"))


def _request(s: Script, p: int, at: Millis, dice: random.Random) -> None:
    world, held, who = s.world, list[Thing](), s.world.people[dice.randrange(4)]
    notes: list[Thing] = []
    s.at(at, lambda: held.append(world.merge_request(p, f"Request {at}")))

    def does(action: str, **more: Any) -> Callable[[], object]:
        return lambda: world.merge_request_does(p, held[0], action, **more)

    s.at(at + 4 * MINUTE, does("update", edit="push"))
    s.at(at + 9 * MINUTE, lambda: notes.append(world.note(p, f"Comment {at}", on=held[0])))
    s.at(at + 15 * MINUTE, lambda: world.edit_note(p, notes[0]))
    s.at(at + 30 * MINUTE, does("approved", who=who))
    if dice.random() < 0.3:
        s.at(at + 40 * MINUTE, does("unapproved", who=who))
    s.at(at + 60 * MINUTE, does("merge" if dice.random() < 0.7 else "close"))


def _pipeline(s: Script, p: int, at: Millis, dice: random.Random) -> None:
    world, held = s.world, list[int]()
    end = dice.choice(["success", "success", "failed"])

    def new() -> None:
        held.append(world.new_pipeline(p))
        world.pipeline_becomes(p, held[0], "pending")

    def job(number: int, status: str) -> Callable[[], object]:
        return lambda: world.job_becomes(p, world.jobs_of(p, held[0])[number], status)

    s.at(at, new)
    s.at(at + MINUTE, lambda: world.pipeline_becomes(p, held[0], "running"))
    s.at(at + 2 * MINUTE, job(0, "running"))
    s.at(at + 6 * MINUTE, job(0, "success"))
    s.at(at + 7 * MINUTE, job(1, "running"))
    s.at(at + 20 * MINUTE, job(1, end))
    s.at(at + 20 * MINUTE + 1, lambda: world.pipeline_becomes(p, held[0], end))


def _deployment(s: Script, p: int, at: Millis, dice: random.Random) -> None:
    world, held = s.world, list[int]()
    s.at(at, lambda: held.append(world.new_deployment(p)))
    s.at(at + 1, lambda: world.deployment_becomes(p, held[0], "running"))
    s.at(at + 15 * MINUTE, lambda: world.deployment_becomes(p, held[0], "success"))


def _rest(s: Script, p: int, at: Millis, dice: random.Random) -> None:
    world, tag, held = s.world, f"r{at}", list[Thing]()
    slug = f"page-{at}"
    s.at(at, lambda: world.release(p, tag))
    s.at(at + 2 * MINUTE, lambda: world.release(p, tag, "update"))
    s.at(at + 5 * MINUTE, lambda: world.wiki(p, slug))
    s.at(at + 25 * MINUTE, lambda: world.wiki(p, slug, "update"))
    s.at(at + 26 * MINUTE, lambda: world.token_expires(p))
    s.at(at + 27 * MINUTE, lambda: world.vulnerability(p))
    s.at(at + 30 * MINUTE, lambda: world.switch_flag(p, f"flag-{at}"))
    s.at(at + 31 * MINUTE, lambda: held.append(world.milestone(p, f"m{at}")))
    s.at(at + 65 * MINUTE, lambda: world.milestone_does(p, held[0], "close"))
    s.at(at + 90 * MINUTE, lambda: world.wiki(p, slug, "delete"))
    s.at(at + 95 * MINUTE, lambda: world.release(p, tag, "delete"))
    s.at(at + 99 * MINUTE, lambda: world.switch_flag(p, f"flag-{at}"))


STORIES = [_pushes, _issue, _request, _pipeline, _deployment, _rest]


class Life:
    """One life of the service: the receiver on its port, and everything that asks GitLab."""

    def __init__(self, path: Location, gitlab: Simulator, port: int) -> None:
        self.path = path
        self.port = port
        self.config = Config.model_validate(
            {
                "gitlab": {"url": gitlab.url, "token": gitlab.api.token},
                "groups": ["group"],
                "reconcile": {"concurrency": 2},  # GitLab runs in this process too
                "receiver": {"url": f"http://127.0.0.1:{port}", "hooks": [{"token": TOKEN}]},
            }
        )
        self.polling: Reconciling | None = None

    async def start(self) -> None:
        self.db = connect(self.path)
        self.reader = connect(self.path, readonly=True)
        self.ledger = Ledger(Writer(self.db), self.reader)
        tests = ExpectedTests()
        self.receiving = receiving(self.config.receiver, ledger=self.ledger, path=self.path, expected_tests=tests)
        self.received = await self.receiving.__aenter__()
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self.server = web_server(self.received.app)
        self.serving = asyncio.create_task(self.server.serve(sockets=[listener]))
        await self.ledger.note_start(times.now())
        self.polling = reconciling(self.config, ledger=self.ledger, expected_tests=tests)
        await self.polling.schedule.catch_up()

    async def poll(self) -> None:
        if self.polling is not None:
            await self.received.recorded()
            await self.ledger.heartbeat(times.now())
            names = self.polling.projects.names
            await asyncio.gather(*(self.polling.poller.poll(name) for name in names))

    async def end(self) -> None:
        if self.polling is None:
            return
        self.polling.stop()
        self.polling = None
        self.server.should_exit = True
        await self.serving
        await self.receiving.__aexit__(None, None, None)
        await self.ledger.heartbeat(times.now())
        await self.ledger.close()
        self.reader.close()
        self.db.close()


@dataclass(frozen=True)
class Told:
    """An event as the ledger has it."""

    key: str
    kind: str
    action: str | None
    body: dict[str, Any]
    recovery: dict[str, Any] | None


async def live_through(
    path: Location,
    monkeypatch: pytest.MonkeyPatch,
    *,
    down: list[tuple[Millis, Millis]],
    days: int = 7,
    busy: int = 2,
    seed: int = 7,
) -> Week:
    """Play a week; the service is down from and to these times, counted from the beginning."""
    now = START
    monkeypatch.setattr(times, "now", lambda: now)
    world = World(seed=seed, clock=lambda: now)
    for number, name in PROJECTS.items():
        world.add_project(number, name)
    port = free_port()
    with Simulator(world) as gitlab:
        life = Life(path, gitlab, port)
        for number in PROJECTS:
            gitlab.add_hook(number, f"http://127.0.0.1:{port}/webhooks/gitlab", token=TOKEN)
        steps = Script(world, gitlab.courier.hooks, seed, days, busy).write()
        steps += [(Millis(START + edge), lambda: None) for stretch in down for edge in stretch]
        steps += [(Millis(START + n * ROUND), lambda: None) for n in range(1, days * DAY // ROUND + 1)]
        polled = START
        await life.start()
        for at, does in sorted(steps, key=lambda step: step[0]):
            now = at
            is_down = any(start <= at - START < end for start, end in down)
            if is_down and life.polling is not None:
                await life.end()
            elif not is_down and life.polling is None:
                await life.start()
            does()
            await asyncio.to_thread(gitlab.courier.settle)
            if now - polled >= ROUND:
                polled = now
                await life.poll()
        for _ in range(2):  # what the last poll let GitLab send anew, and everything it had settled
            now = Millis(now + HOUR)
            await life.poll()
        week = Week(life, gitlab, now)
        await life.end()
    return week


class Week:
    """What came of it."""

    def __init__(self, life: Life, gitlab: Simulator, now: Millis) -> None:
        db = life.reader
        self.happened = len(gitlab.world.happenings)
        self.happenings = gitlab.world.happenings
        self.requests = sum(gitlab.api.requests.values())
        self.gaps = gaps.gaps(db, keeps=keeps(), expected=Millis(now - HOUR), now=now)
        self.downtimes = db.execute("SELECT count(*) FROM downtimes").fetchone()[0]
        self.was_disabled = any("test" in path for path in gitlab.api.requests)
        rows = db.execute(
            """
            SELECT s.key, e.kind, s.action, s.payload, s.recovery
              FROM events e JOIN sightings s ON s.id = e.sighting_id
             WHERE e.merged_into IS NULL AND e.kind <> 'hook_test' ORDER BY e.happened_at, e.id
            """
        ).fetchall()
        self.told = [
            Told(key, kind, action, json.loads(payload), recovery and json.loads(recovery))
            for key, kind, action, payload, recovery in rows
        ]

    @property
    def keys(self) -> Counter[str]:
        return Counter(told.key for told in self.told)

    def by_key(self) -> dict[str, list[Told]]:
        found: dict[str, list[Told]] = {}
        for told in self.told:
            found.setdefault(told.key, []).append(told)
        return found
