"""A service's forwarding in a world where time is virtual, and what must hold of every message that leaves it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import Millis
from reconciler.forwarding.forwarder import Forwarder
from reconciler.forwarding.message import ACCEPTED, Answer, Message
from reconciler.ledger.errors import LedgerError, LedgerUnavailable
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.listener import Listener
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN
from reconciler.ledger.storage.sql import Sql
from reconciler.location import Location
from reconciler.supervisor import Supervisor
from tests.support.denied import allow_reads, allow_writes, deny_reads, deny_writes
from tests.support.sink import Sink, SinkDestination
from tests.support.virtual import VirtualDisk, VirtualLoop, WallClock

LONGEST_RETRY_S, LONGEST_PROBE_S, TIMEOUT_S, RATE = 8.0, 4.0, 5.0, 5.0
MOMENT_S = 0.1
"""What goes out at once has gone out by then: commits and answers take less."""
LONG_S = 400.0
"""Whatever has failed, however often, has begun again by then."""

NAMES = ("projects", "single", "slow", "batched", "past")
"""One lane a project; a lane an event; a rate; batches; and one project, from its beginning."""
MOST = 3
"""The largest batch."""
ASKS = Answer("asks", "later", status=429, retry_after=Millis(3000))
NO_SYNC = Sql("PRAGMA synchronous = OFF", postgresql="SET synchronous_commit = off")
"""The disk is virtual."""
OUTCOMES = {
    "up": ACCEPTED,
    "down": Answer("http_5xx", "no", status=503),
    "refuses": Answer("http_4xx", "never", status=422, rejected=True),
    "asks": ASKS,
    "gone": Answer("http_4xx", "gone", status=410, gone=True),
}
Key = tuple[str, int]


def destination(name: str, concurrency: int = 2) -> SinkDestination:
    settings_of: dict[str, dict[str, Any]] = {
        "single": {"ordering": "none"},
        "slow": {"ordering": "none", "rate_limit": f"{RATE:g}/s"},
        "batched": {"batch": {"max": MOST, "wait": "20ms"}},
        "past": {"start_from": "beginning", "filter": {"projects": [1]}},
    }
    more = settings_of.get(name, {})
    settings = {
        "name": name,
        "kind": "sink",
        "concurrency": concurrency,
        "timeout": f"{TIMEOUT_S:g}s",
        "retry": {"initial_delay": "1s", "max_delay": f"{LONGEST_RETRY_S:g}s"},
        "breaker": {"failures": 3, "max_delay": f"{LONGEST_PROBE_S:g}s"},
    }
    return SinkDestination.model_validate(settings | more)


class Onlooker:
    """The forwarder's watcher."""

    def attempting(self, event_id: str, destination: str, number: int) -> Any:
        return contextlib.nullcontext({})

    def trouble(self) -> None: ...

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None: ...


class Opening(Listener):
    """Wakes the forwarder."""

    def __init__(self, world: World) -> None:
        self._world = world

    def opened(self, deliveries: Sequence[Opened]) -> None:
        self._world.forwarder.opened(deliveries)


class World:
    """A service's forwarding, and what must hold of every message that leaves it."""

    def __init__(self, location: Location, seed: int) -> None:
        self.location = location
        self.random = random.Random(seed)
        self.loop = VirtualLoop()
        self.clock = WallClock(self.loop)
        self.mode = dict.fromkeys(NAMES, "up")
        self.wanted = {name: destination(name) for name in NAMES[:4]}
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
        self.lane_of: dict[Key, str] = {}
        self.waiting: defaultdict[str, defaultdict[str, dict[int, str]]]
        """The open deliveries of each destination's lanes, in order, with their states."""
        self.in_flight: set[Key] = set()
        self.halved: set[Key] = set()
        """Those of a batch that was rejected: they are sent again at once, in its turn."""
        self.answered: set[Key] = set()
        """Those that are accepted, or rejected alone, and whose outcome is not in the ledger yet."""
        self.sent: Counter[Key] = Counter()
        self.overtaken: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        self.slow_sent_at = -1.0
        self.broken: list[str] = []
        Sink.behave = self.behave
        Sink.behave_batch = self.behave_batch
        connect(location).close()
        self.monitor = connect(location, readonly=True)
        self.start()

    # A service's life

    def start(self) -> None:
        self.db = connect(self.location)
        self.db.execute(NO_SYNC)
        self.reader = connect(self.location, readonly=True)
        self.run(self._begin())

    async def _begin(self) -> None:
        disk = VirtualDisk(self.loop, latency_s=lambda: self.random.uniform(0.001, 0.005), done=self.look_at_ledger)
        self.ledger = Ledger(Writer(self.db, listener=Opening(self), disk=disk), self.reader)
        self.supervisor = Supervisor()
        self.forwarder = Forwarder(
            ledger=self.ledger,
            gitlab_url="https://x",
            watcher=Onlooker(),
            supervisor=self.supervisor,
        )
        await self.forwarder.apply(await self.forwarder.prepare(self.wanted.values()))
        self.running = self.supervisor.start("forwarder", self.forwarder.run)

    @property
    def failing(self) -> dict[str, str]:
        return {part.name: part.error for part in self.supervisor.parts() if part.failing_since is not None}

    def stop(self, *, patience_s: float) -> None:
        """End the service: in order, or, without patience, as a kill does."""
        self.stopping = True
        if patience_s:
            self.run(self._stop_in_order(patience_s))
        self.running.cancel()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.run(_ended(tasks))
        self.db.close()
        self.reader.close()
        self.stopping = False
        self.in_flight.clear()
        self.overtaken.clear()
        self.halved.clear()
        self.answered.clear()
        self.failed_at.clear()
        self.read_trouble = self.write_trouble = -LONG_S
        for key in self.open_since:
            self.may_send[key] = True
            self.not_before.pop(key, None)
        self.slow_sent_at = -1.0
        self.look_at_ledger()

    async def _stop_in_order(self, patience_s: float) -> None:
        await self.forwarder.drain(patience_s)
        with contextlib.suppress(LedgerError):
            await self.ledger.note_stop(times.now())  # written after what the outboxes have handed over

    def run(self, work: Any) -> Any:
        with self.clock.in_force():
            return self.loop.run_until_complete(work)

    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        assert not self.broken, self.broken

    @contextlib.contextmanager
    def beside(self, *, noticed: bool) -> Iterator[Database]:
        """Another process's connection. It may be noticed at once, or only by the slow look."""
        while self.db.in_transaction:  # it would wait for the lock
            self.wait(0.001)
        with self.clock.in_force(), contextlib.closing(connect(self.location)) as db:
            yield db
        self.look_at_ledger()
        if noticed:
            self.forwarder.look_again()

    async def record(self, projects: list[int], step: int = 0) -> None:
        """Record an event of each of these projects; the wall clock is set before the commit is done."""
        some = [sighting(self.told + n, project) for n, project in enumerate(projects)]
        self.told += len(some)
        recorded = self.ledger.record(some)
        self.loop.call_later(0.0005, self.clock.step, step)
        with contextlib.suppress(LedgerUnavailable):
            await recorded

    async def reload(self, wanted: dict[str, SinkDestination]) -> None:
        """Make these the destinations."""
        await self.forwarder.apply(await self.forwarder.prepare(wanted.values()))
        self.slow_sent_at = -1.0  # an outbox that starts anew knows of no rate
        await asyncio.sleep(0)  # a second reload, while a past may be under way
        await self.forwarder.apply(await self.forwarder.prepare(wanted.values()))

    # What goes wrong with its ledger

    def deny_reads(self, table: str | None = None) -> None:
        """The service can't read its ledger, or this table of it."""
        deny_reads(self.reader, table)

    def allow_reads(self) -> None:
        allow_reads(self.reader)

    def deny_writes(self) -> None:
        """The service can't write its ledger, once the transaction that is open has ended."""
        if self.db.in_transaction:
            self.loop.call_later(0.0005, self.unless_ended(self.deny_writes))
        else:
            deny_writes(self.db)

    def allow_writes(self) -> None:
        if self.db.in_transaction:
            self.loop.call_later(0.0005, self.unless_ended(self.allow_writes))
        else:
            allow_writes(self.db)

    def unless_ended(self, work: Callable[[], None]) -> Callable[[], None]:
        """Does `work`, unless the service was stopped in the meantime."""
        db = self.db

        def run() -> None:
            if self.db is db:
                work()

        return run

    def close(self) -> None:
        """End the world, whose service was stopped."""
        self.monitor.close()
        self.loop.close()

    # What is seen of it

    def look_at_ledger(self) -> None:
        """After every commit: which deliveries are open since when, and which wait for how long."""
        now = self.loop.time()
        rows = self.monitor.execute(
            "SELECT x.name, d.event_id, d.lane, d.state, d.attempts, d.pause_ms FROM deliveries d "
            f"JOIN destinations x ON x.id = d.destination_id WHERE d.{OPEN} ORDER BY d.event_id"
        ).fetchall()
        found = {(name, event_id): rest for name, event_id, _, *rest in rows}
        self.lane_of |= {(name, event_id): lane for name, event_id, lane, *_ in rows}
        self.waiting = defaultdict(lambda: defaultdict(dict))
        for name, event_id, lane, state, *_ in rows:
            self.waiting[name][lane][event_id] = state
        self.answered &= found.keys()
        self.open_since = {key: self.open_since.get(key, now) for key in found}
        for key, (state, attempts, pause) in found.items():
            self.may_send.setdefault(key, True)
            if state == "pending":
                self.not_before.pop(key, None)
            elif attempts > self.attempts.get(key, 0) and key in self.failed_at:
                self.not_before[key] = self.failed_at.pop(key) + pause / 1000
            self.attempts[key] = attempts

    async def behave(self, name: str, message: Message) -> Answer:
        return await self.sends(name, [message])

    async def behave_batch(self, name: str, messages: Sequence[Message]) -> Sequence[Answer]:
        assert len(messages) <= MOST
        return [await self.sends(name, messages)] * len(messages)

    async def sends(self, name: str, messages: Sequence[Message]) -> Answer:
        keys = [(name, int(message.id.rpartition("_")[2])) for message in messages]
        for position, key in enumerate(keys):
            try:
                self.check_start(key, keys[:position], keys)
            except AssertionError as error:
                self.broken.append(str(error))
        for key in keys:
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
            self.in_flight.difference_update(keys)
            self.halved.difference_update(keys)
            self.answered.difference_update(keys)
            if answer.rejected and len(keys) > 1:
                self.halved.update(keys)
            elif answer.accepted or answer.rejected:
                self.answered.update(keys)
            if answer.error_class == "lost" and not self.stopping and self.loop.time() < began + TIMEOUT_S - 0.01:
                self.broken.append(f"{keys} were given up while they were under way")
            if not answer.accepted:
                for key in keys:
                    self.may_send[key] = True
                    self.failed_at[key] = self.loop.time()

    def check_start(self, key: Key, before: list[Key], batch: list[Key]) -> None:
        """What must hold of a message of a batch. `before` are those in front of it."""
        name, event_id = key
        lane = self.lane_of[key]
        now = self.loop.time()
        assert self.may_send[key], f"{key} goes out twice without a reason"
        assert not [other for other in self.in_flight if other[0] == name and self.lane_of[other] == lane], (
            f"{key} goes out while another of its lane is under way"
        )
        done = {*before, *(self.answered if key in self.halved else ())}
        earlier = [one for one in self.waiting[name][lane] if one < event_id and (name, one) not in done]
        assert all(self.open_since[name, one] >= now for one in earlier), f"{key} goes out before {earlier}"
        assert now >= self.not_before.get(key, 0) - 0.002, f"{key} was hurried"
        if name == "slow":
            assert self.slow_sent_at < 0 or now - self.slow_sent_at >= 1 / RATE - 0.0011, "a rate was not kept"
            self.slow_sent_at = now
        heads = {one: next(iter(events.items())) for one, events in self.waiting[name].items() if events}
        ready = {
            one for one, (ident, state) in heads.items() if state == "pending" and (name, ident) not in self.in_flight
        }
        if max(self.read_trouble, self.write_trouble) + 2 > now:
            ready = set()  # who can't be read, or noted, rests for a second
        lanes_of_batch = {self.lane_of[one] for one in batch}
        if key in self.halved or lane in {self.lane_of[one] for one in before}:
            return  # its lane's turn was counted
        waiting = self.overtaken[name]
        for gone in waiting.keys() - (ready - lanes_of_batch):
            del waiting[gone]
        for other in ready - lanes_of_batch:
            waiting[other][lane] += 1
            assert waiting[other][lane] <= 2, f"{name}: {other} waits while {lane} has turn after turn"

    def is_well(self, name: str) -> bool:
        """Whether nothing keeps a destination's deliveries: they go out at once."""
        state = "SELECT breaker = 'closed' AND paused_at IS NULL FROM destinations WHERE name = ? AND active = 1"
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


def sighting(number: int, project: int) -> Sighting:
    return Sighting(
        source="webhook:default",
        source_id=str(number),
        identity=Identity(f"note:{number}", times.now(), Precision.GITLAB_TIME),
        summary=Summary(kind="note", project_id=project),
        seen_at=times.now(),
        payload="{}",
        payload_sha=str(number),
    )
