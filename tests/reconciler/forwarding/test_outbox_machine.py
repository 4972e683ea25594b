"""The forwarder and its outboxes under a virtual clock, against whatever may happen to them, in any order.

Real are the ledger (SQLite files), the writer, the forwarder, the outboxes and the commands' ways to the ledger from
outside. Virtual are time, the disk's latency, and the destination, a kind that is found by its entry point.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import DAY, Millis
from reconciler.forwarding.forwarder import Forwarder
from reconciler.forwarding.message import TAKEN, Answer, Message
from reconciler.forwarding.outbox import LOOK_S
from reconciler.ledger import destinations, fill, replay
from reconciler.ledger.connection import connect, transaction
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.prune import Keep, Pruning
from reconciler.ledger.replay import Again
from reconciler.ledger.schema import OPEN
from reconciler.ledger.writer import Writer
from tests.support.sink import Sink, SinkDestination, sink_installed
from tests.support.virtual import VirtualDisk, VirtualLoop, WallClock

LONGEST_RETRY_S, LONGEST_PROBE_S, TIMEOUT_S, RATE = 8.0, 4.0, 5.0, 5.0
MOMENT_S = 0.1
"""What goes out at once has gone out by then: commits and answers take less."""
LONG_S = 400.0
"""Whatever has failed, however often, has begun again by then."""

NAMES = ("projects", "single", "slow", "past")
"""One lane a project; a lane an event; a rate; and one project, from its beginning."""
ASKS = Answer("asks", "later", status=429, retry_after=Millis(3000))
OUTCOMES = {
    "up": TAKEN,
    "down": Answer("http_5xx", "no", status=503),
    "refuses": Answer("http_4xx", "never", status=422, refused=True),
    "asks": ASKS,
    "gone": Answer("http_4xx", "gone", status=410, gone=True),
}
Key = tuple[str, int]


@pytest.fixture(scope="module", autouse=True)
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with patch.object(fill, "EVENTS_A_STEP", 3), sink_installed(tmp_path_factory.mktemp("installed")):
        yield


def destination(name: str, concurrency: int = 2) -> SinkDestination:
    more: dict[str, Any] = {
        "single": {"ordering": "none"},
        "slow": {"ordering": "none", "rate": f"{RATE:g}/s"},
        "past": {"start": "beginning", "filter": {"projects": [1]}},
    }.get(name, {})
    settings = {
        "name": name,
        "kind": "sink",
        "concurrency": concurrency,
        "timeout": f"{TIMEOUT_S:g}s",
        "retry": {"first": "1s", "longest": f"{LONGEST_RETRY_S:g}s"},
        "breaker": {"failures": 3, "longest": f"{LONGEST_PROBE_S:g}s"},
    }
    return SinkDestination.model_validate(settings | more)


class Onlooker:
    """The forwarder's watcher."""

    def attempting(self, event_id: str, destination: str, number: int) -> Any:
        return contextlib.nullcontext({})

    def trouble(self) -> None: ...

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None: ...


class World:
    """A service's forwarding, and what must hold of every message that leaves it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path = folder / "ledger.db"
        self.random = random.Random(seed)
        self.loop = VirtualLoop()
        self.clock = WallClock(self.loop)
        self.mode = dict.fromkeys(NAMES, "up")
        self.wanted = {name: destination(name) for name in NAMES[:3]}
        self.failing: dict[str, str] = {}
        self.write_trouble = self.read_trouble = -LONG_S
        """Until when there is, or was, trouble."""
        self.stopping = False
        self.told = 0
        self.may_send: dict[Key, bool] = {}
        """Whether a message may go out: it never did, it failed, its outcome was lost, or it was asked for again."""
        self.attempts: dict[Key, int] = {}
        self.not_before: dict[Key, float] = {}
        self.failed_at: dict[Key, float] = {}
        self.open_since: dict[Key, float] = {}
        self.in_flight: set[Key] = set()
        self.sent: Counter[Key] = Counter()
        self.overtaken: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        self.slow_sent_at = -1.0
        self.broken: list[str] = []
        Sink.behave = self.behave
        with contextlib.closing(connect(self.path)):
            pass
        self.monitor = sqlite3.connect(self.path, isolation_level=None)
        self.start()

    # A service's life

    def start(self) -> None:
        self.db = connect(self.path)
        self.db.execute("PRAGMA synchronous = OFF")  # the disk is virtual
        self.reader = connect(self.path, readonly=True)
        self.run(self._begin())

    async def _begin(self) -> None:
        disk = VirtualDisk(self.loop, latency_s=lambda: self.random.uniform(0.001, 0.005), done=self.look_at_ledger)
        self.writer = Writer(self.db, disk=disk)
        self.forwarder = Forwarder(db=self.reader, writer=self.writer, gitlab_url="https://x", watcher=Onlooker())
        self.forwarder.on_failure = self.note_failure
        self.writer.on_opened = self.forwarder.opened
        await self.forwarder.apply(await self.forwarder.prepare(self.wanted.values()))
        self.running = asyncio.create_task(self.forwarder.run())

    def note_failure(self, part: str, error: str | None) -> None:
        if error is None:
            self.failing.pop(part, None)
        else:
            self.failing[part] = error

    def stop(self, *, patience_s: float) -> None:
        """End the service: in order, or, without patience, as a kill does."""
        self.stopping = True
        if patience_s:
            self.run(self.forwarder.drain(patience_s))
        self.running.cancel()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.run(_ended(tasks))
        self.db.close()
        self.reader.close()
        self.stopping = False
        self.in_flight.clear()
        self.failing.clear()
        self.overtaken.clear()
        self.failed_at.clear()
        self.read_trouble = self.write_trouble = -LONG_S
        for key in self.open_since:
            self.may_send[key] = True
            self.not_before.pop(key, None)
        self.slow_sent_at = -1.0
        self.look_at_ledger()

    def run(self, work: Any) -> Any:
        with self.clock.in_force():
            return self.loop.run_until_complete(work)

    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        assert not self.broken, self.broken

    @contextlib.contextmanager
    def beside(self, *, noticed: bool) -> Iterator[Database]:
        """Another process's connection. It may be noticed at once, or only by the slow look."""
        while self.db.conn.in_transaction:  # it would wait for the lock
            self.wait(0.001)
        with self.clock.in_force(), contextlib.closing(connect(self.path)) as db:
            yield db
        self.look_at_ledger()
        if noticed:
            self.forwarder.look_again()

    # What is seen of it

    def look_at_ledger(self) -> None:
        """After every commit: which deliveries are open since when, and which wait for how long."""
        now = self.loop.time()
        rows = self.monitor.execute(
            "SELECT x.name, d.event_id, d.state, d.attempts, d.pause_ms FROM deliveries d JOIN destinations x "
            f"ON x.id = d.destination_id WHERE d.{OPEN}"
        ).fetchall()
        found = {(name, event_id): rest for name, event_id, *rest in rows}
        self.open_since = {key: self.open_since.get(key, now) for key in found}
        for key, (state, attempts, pause) in found.items():
            self.may_send.setdefault(key, True)
            if state == "pending":
                self.not_before.pop(key, None)
            elif attempts > self.attempts.get(key, 0) and key in self.failed_at:
                self.not_before[key] = self.failed_at.pop(key) + pause / 1000
            self.attempts[key] = attempts

    async def behave(self, name: str, message: Message) -> Answer:
        key = (name, int(message.id.rpartition("_")[2]))
        lane = self.lane_of(key)
        try:
            self.check_start(key, lane)
        except AssertionError as error:
            self.broken.append(str(error))
        self.in_flight.add(key)
        self.may_send[key] = False
        self.sent[key] += 1
        answer, began = Answer("lost", "given up"), self.loop.time()
        try:
            mode = self.mode[name]
            await asyncio.sleep(10 * TIMEOUT_S if mode == "hangs" else self.random.uniform(0.005, 0.02))
            answer = OUTCOMES[self.random.choice(["up", "down"]) if mode == "wavers" else mode]
            return answer
        finally:
            self.in_flight.discard(key)
            if answer.error_class == "lost" and not self.stopping and self.loop.time() < began + TIMEOUT_S - 0.01:
                self.broken.append(f"{key} was given up while it was under way")
            if not answer.taken:
                self.may_send[key] = True
                self.failed_at[key] = self.loop.time()

    def lane_of(self, key: Key) -> str:
        sql = """
            SELECT lane FROM deliveries JOIN destinations x ON x.id = destination_id
             WHERE x.name = ? AND event_id = ?
        """
        lane: str = self.monitor.execute(sql, key).fetchone()[0]
        return lane

    def check_start(self, key: Key, lane: str) -> None:
        name, event_id = key
        now = self.loop.time()
        heads = self.heads(name)
        assert self.may_send[key], f"{key} goes out twice without a reason"
        assert not [other for other in self.in_flight if other[0] == name and self.lane_of(other) == lane], (
            f"{key} goes out while another of its lane is under way"
        )
        first = heads[lane][0]
        assert first >= event_id or self.open_since[name, first] >= now, f"{key} goes out before {first}"
        assert now >= self.not_before.get(key, 0) - 0.002, f"{key} was hurried"
        if name == "slow":
            assert self.slow_sent_at < 0 or now - self.slow_sent_at >= 1 / RATE - 0.0011, "a rate was not kept"
            self.slow_sent_at = now
        ready = {
            one for one, (ident, state) in heads.items() if state == "pending" and (name, ident) not in self.in_flight
        }
        if max(self.read_trouble, self.write_trouble) + 2 > now:
            ready = set()  # who can't be read, or noted, rests for a second
        waiting = self.overtaken[name]
        for gone in waiting.keys() - (ready - {lane}):
            del waiting[gone]
        for other in ready - {lane}:
            waiting[other][lane] += 1
            assert waiting[other][lane] <= 2, f"{name}: {other} waits while {lane} has turn after turn"

    def heads(self, name: str) -> dict[str, tuple[int, str]]:
        """The heads of a destination's lanes, found without the table of lanes."""
        sql = f"""
            SELECT lane, min(event_id), state FROM deliveries JOIN destinations x ON x.id = destination_id
             WHERE x.name = ? AND {OPEN} GROUP BY lane
        """
        return {lane: (ident, state) for lane, ident, state in self.monitor.execute(sql, [name])}

    def is_well(self, name: str) -> bool:
        """Whether nothing keeps a destination's deliveries: they go out at once."""
        state = "SELECT breaker = 'closed' AND paused_at IS NULL FROM destinations WHERE name = ? AND active"
        row = self.monitor.execute(state, [name]).fetchone()
        now = self.loop.time()
        return bool(
            row
            and row[0]
            and name in self.wanted
            and self.mode[name] == "up"
            and not self.failing
            and now > self.read_trouble + 2
            and now > self.write_trouble + 2
        )

    def open_of(self, name: str) -> set[int]:
        return {event_id for one, event_id in self.open_since if one == name}


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


names = st.sampled_from(NAMES)


class Machine(RuleBasedStateMachine):
    """Each rule is something that happens; what must hold is checked whenever a message leaves, and after each."""

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        random.seed(seed)
        self.world = World(self.folder, seed)

    @rule(
        projects=st.lists(st.integers(1, 4), min_size=1, max_size=6), step=st.sampled_from([0, 0, -200, -7_200_000])
    )
    def open(self, projects: list[int], step: int) -> None:
        """Events are recorded; where nothing is in the way they go out at once, whatever the wall clock does."""
        world = self.world
        idle = [name for name in world.wanted if world.is_well(name) and not world.open_of(name) and name != "slow"]
        before = world.sent.copy()
        world.run(self._record(projects, step))
        fresh = {name: world.open_of(name) for name in idle}
        world.wait(MOMENT_S + 0.03 * len(projects))
        for name, events in fresh.items():
            for event_id in events:
                assert world.sent[name, event_id] > before[name, event_id], f"{name}: nobody woke it for {event_id}"

    async def _record(self, projects: list[int], step: int) -> None:
        world = self.world
        some = [sighting(world.told + n, project) for n, project in enumerate(projects)]
        world.told += len(some)
        recorded = world.writer.record(some)
        world.loop.call_later(0.0005, world.clock.step, step)
        with contextlib.suppress(LedgerUnavailable):
            await recorded

    @rule(name=names, mode=st.sampled_from([*OUTCOMES, "hangs", "wavers"]))
    def behave(self, name: str, mode: str) -> None:
        self.world.mode[name] = mode

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 6.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(ms=st.sampled_from([-200, 200, -3_600_000, 3_600_000, -5 * DAY, 5 * DAY]))
    def set_the_clock(self, ms: int) -> None:
        self.world.clock.step(ms)

    @rule(name=names)
    def comes_back(self, name: str) -> None:
        """A destination is well again: what is open for it goes out as soon as its pauses are over."""
        world = self.world
        world.mode[name] = "up"
        if (
            name not in world.wanted
            or world.failing
            or max(world.read_trouble, world.write_trouble) + 2 > world.loop.time()
        ):
            return
        world.wait(TIMEOUT_S + LONGEST_RETRY_S + LONGEST_PROBE_S + 1 + len(world.open_of(name)) / RATE)
        [paused] = world.monitor.execute("SELECT paused_at FROM destinations WHERE name = ?", [name]).fetchone()
        if paused is None:
            assert not world.open_of(name), f"{name}: {world.open_of(name)} do not go out"

    @rule(name=names, noticed=st.booleans())
    def paused(self, name: str, noticed: bool) -> None:
        self._change(name, destinations.pause, noticed, why="by hand", now=times.now())

    @rule(name=names, noticed=st.booleans())
    def resumed(self, name: str, noticed: bool) -> None:
        self._change(name, destinations.resume, noticed)

    def _change(self, name: str, change: Callable[..., None], noticed: bool, **how: Any) -> None:
        with self.world.beside(noticed=noticed) as db, transaction(db):
            for one in destinations.standings(db):
                if one.name == name:
                    change(db, one.id, **how)

    @rule(name=names, noticed=st.booleans(), data=st.data())
    def replayed(self, name: str, noticed: bool, data: st.DataObject) -> None:
        world = self.world
        known = [ident for (ident,) in world.monitor.execute("SELECT id FROM events ORDER BY id")]
        row = world.monitor.execute("SELECT id FROM destinations WHERE name = ?", [name]).fetchone()
        if not known or row is None:
            return
        chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
        lanes = {ident: self._lane(name, ident) for ident in chosen}
        idle = world.is_well(name) and not world.open_of(name) and name != "slow"
        before = world.sent.copy()
        with world.beside(noticed=noticed) as db:
            replay.reopen(db, row[0], [Again(ident, lane) for ident, lane in lanes.items()], now=times.now())
        for ident in chosen:
            if (name, ident) not in world.in_flight:
                world.may_send[name, ident] = True
        world.wait((0 if noticed else LOOK_S) + MOMENT_S + 0.03 * len(chosen))
        if idle:
            assert all(world.sent[name, ident] > before[name, ident] for ident in chosen), f"{name}: nobody saw it"

    def _lane(self, name: str, event_id: int) -> str:
        if destination(name).ordering == "none":
            return f"event:{event_id:012d}"
        sql = "SELECT project_id FROM events WHERE id = ?"
        return f"project:{self.world.monitor.execute(sql, [event_id]).fetchone()[0]}"

    @rule()
    def pruned(self) -> None:
        with self.world.beside(noticed=False) as db:
            pruning = Pruning(Keep(Millis(0), Millis(0), Millis(0), Millis(0)), now=times.now())
            done = False
            while not done:
                with transaction(db):
                    done = pruning.step(db)

    @rule(chosen=st.sets(names, min_size=1), concurrency=st.integers(1, 3))
    def reloaded(self, chosen: set[str], concurrency: int) -> None:
        """The config changes: destinations come, go and change. Those that come with a past are filled at once."""
        world = self.world
        wanted = {name: destination(name, concurrency) for name in NAMES if name in chosen}
        past_is_new = not world.monitor.execute("SELECT 1 FROM destinations WHERE name = 'past'").fetchone()
        try:
            world.run(self._apply(wanted))
        except LedgerUnavailable:
            return
        world.wanted = wanted
        if past_is_new and world.is_well("past"):
            world.wait(MOMENT_S + 0.05 * world.told)
            assert not world.open_of("past"), "the past was opened, and nobody woke its outbox"

    async def _apply(self, wanted: dict[str, SinkDestination]) -> None:
        world = self.world
        await world.forwarder.apply(await world.forwarder.prepare(wanted.values()))
        world.slow_sent_at = -1.0  # an outbox that starts anew knows of no rate
        await asyncio.sleep(0)  # a second reload, while a past may be under way
        await world.forwarder.apply(await world.forwarder.prepare(wanted.values()))

    @rule(seconds=st.sampled_from([0.5, 3.0]), table=st.sampled_from([None, "sightings", "destinations"]))
    def ledger_can_t_be_read(self, seconds: float, table: str | None) -> None:
        """All of it, or what messages are made of, or how the destinations stand."""
        world = self.world
        world.read_trouble = world.loop.time() + seconds
        connection = world.reader.conn

        def decide(_: int, what: str | None, *__: str | None) -> int:
            return sqlite3.SQLITE_DENY if table in (None, what) else sqlite3.SQLITE_OK

        world.run(self._record([1, 2, 3], 0))
        connection.set_authorizer(decide)
        world.loop.call_later(seconds, _unless_closed(lambda: connection.set_authorizer(None)))

    @rule(seconds=st.sampled_from([0.5, 3.0]), later=st.sampled_from([0.0, 0.006, 0.012]))
    def ledger_can_t_be_written(self, seconds: float, later: float) -> None:
        """At once, or when messages are under way, whose outcomes then can't be noted."""
        world = self.world
        world.run(self._record([1, 2, 3], 0))
        world.write_trouble = world.loop.time() + later + seconds
        connection = world.db.conn
        for moment, switch in (later, "ON"), (later + seconds, "OFF"):
            sql = f"PRAGMA query_only = {switch}"
            world.loop.call_later(moment, _unless_closed(partial(connection.execute, sql)))
        world.wait(later + 1)

    @rule(patience_s=st.sampled_from([0.0, 1.0, 10.0]))
    def restarted(self, patience_s: float) -> None:
        self.world.stop(patience_s=patience_s)
        self.world.start()

    def _some_fail(self, name: str, count: int) -> set[int]:
        """Of a destination that is well and has nothing to do: the events that it did not take, and will now."""
        world = self.world
        if not world.is_well(name) or world.open_of(name):
            return set()
        world.mode[name] = "down"
        world.run(self._record(list(range(1, count + 1)), 0))
        world.wait(MOMENT_S + count / RATE)
        world.mode[name] = "up"
        return {event_id for event_id in world.open_of(name) if (name, event_id) not in world.in_flight}

    @rule(name=names)
    def retried_in_time(self, name: str) -> None:
        """Not before its pause is over, and not later."""
        world = self.world
        [event_id] = self._some_fail(name, 1) or [0]
        due = world.not_before.get((name, event_id), 0.0) - world.loop.time()
        if due > MOMENT_S:
            before = world.sent[name, event_id]
            world.wait(due - 0.02)
            world.forwarder.look_again()  # woken just before, it must not miss the moment
            assert world.sent[name, event_id] == before
            world.wait(0.02 + MOMENT_S)
            assert world.sent[name, event_id] > before, f"{name}: its retry is late"

    @rule(name=names, count=st.integers(1, 4))
    def resumed_after_failures(self, name: str, count: int) -> None:
        """Now: neither the breaker nor the retries' pauses are waited for."""
        world = self.world
        failed = self._some_fail(name, count)
        self._change(name, destinations.resume, noticed=True)
        world.wait(MOMENT_S + count / RATE)
        assert not failed & world.open_of(name), f"{name}: waits"

    @rule(name=names, hours=st.sampled_from([-48, -2, 2]))
    def restarted_after_the_clock_was_set(self, name: str, hours: int) -> None:
        """What the ledger says of due times is then wrong by hours: nothing waits longer than its pause."""
        world = self.world
        failed = self._some_fail(name, 4)
        world.stop(patience_s=1)
        world.clock.step(hours * 3_600_000)
        world.start()
        world.wait(LONGEST_RETRY_S + LONGEST_PROBE_S + MOMENT_S + 4 / RATE)
        assert not failed & world.open_of(name), f"{name}: waits for hours"

    @rule(name=names, noticed=st.booleans())
    def paused_for_a_while(self, name: str, noticed: bool) -> None:
        """What comes is kept, and goes out when it is resumed."""
        world = self.world
        if not world.is_well(name) or world.open_of(name):
            return
        patience_s = MOMENT_S + (0 if noticed else LOOK_S)
        self._change(name, destinations.pause, noticed, why="by hand", now=times.now())
        world.wait(patience_s)
        before = world.sent.copy()
        world.run(self._record([1, 2], 0))
        world.wait(LOOK_S)
        assert all(world.sent[name, event_id] == before[name, event_id] for event_id in world.open_of(name))
        kept = world.open_of(name)
        self._change(name, destinations.resume, noticed)
        world.wait(patience_s + 2 / RATE)
        assert not kept & world.open_of(name), f"{name}: resumed, and nobody saw it"

    @rule(concurrency=st.integers(1, 3), later=st.sampled_from([0.002, 0.006, 0.012]))
    def reloaded_with_messages_under_way(self, concurrency: int, later: float) -> None:
        """They end first: none is on its way twice, and none is given up."""
        world = self.world
        world.run(self._record([1, 2, 3, 4], 0))
        world.run(asyncio.sleep(later))
        self.reloaded(chosen=set(world.wanted), concurrency=concurrency)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def lanes_are_what_deliveries_say(self) -> None:
        sql = f"""
            SELECT destination_id, lane, min(event_id), iif(state = 'retrying', next_attempt_at, NULL)
              FROM deliveries WHERE {OPEN} GROUP BY destination_id, lane ORDER BY 1, 2
        """
        kept = "SELECT destination_id, lane, event_id, due_at FROM lanes ORDER BY 1, 2"
        assert self.world.monitor.execute(kept).fetchall() == self.world.monitor.execute(sql).fetchall()

    def teardown(self) -> None:
        """When all is well in the end, everything goes out."""
        if not hasattr(self, "world"):
            return
        world = self.world
        try:
            world.mode = dict.fromkeys(NAMES, "up")
            world.wait(max(0.0, world.read_trouble - world.loop.time(), world.write_trouble - world.loop.time()) + 1)
            for name in NAMES:
                self.resumed(name=name, noticed=False)
            world.wanted = {name: destination(name) for name in NAMES}
            world.run(self._apply(world.wanted))
            world.wait(LONG_S)
            assert not world.open_since, f"{set(world.open_since)} do not go out"
            world.stop(patience_s=1)
        finally:
            world.monitor.close()
            world.loop.close()
            shutil.rmtree(self.folder)


def _unless_closed(work: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):
            work()

    return run


def sighting(number: int, project: int) -> Sighting:
    return Sighting(
        source="webhook:default",
        source_id=str(number),
        identity=Identity(f"note:{number}", times.now(), Precision.STATED),
        summary=Summary(kind="note", project_id=project),
        seen_at=times.now(),
        payload="{}",
        payload_sha=str(number),
    )


def test_whatever_happens() -> None:
    run_state_machine_as_test(Machine, settings=settings(deadline=None, stateful_step_count=30, max_examples=40))  # type: ignore[no-untyped-call]
