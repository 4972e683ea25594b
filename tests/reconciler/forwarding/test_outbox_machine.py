"""The forwarder and its outboxes under a virtual clock, against whatever may happen to them, in any order.

Real are the ledger (in SQLite or PostgreSQL), the writer, the forwarder, the outboxes and the commands' ways to the
ledger from outside. Virtual are time, the disk's latency, and the destination, a kind that is found by its entry
point.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

from reconciler.events import times
from reconciler.events.times import DAY, Millis
from reconciler.forwarding.outbox import CHECK_INTERVAL_S
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.queue import destinations, replay
from reconciler.ledger.queue.replay import Replay
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.upkeep.prune import Keep, Pruning
from tests.reconciler.forwarding.world import (
    LONG_S,
    LONGEST_PROBE_S,
    LONGEST_RETRY_S,
    MOMENT_S,
    NAMES,
    OUTCOMES,
    RATE,
    TIMEOUT_S,
    World,
    destination,
)
from tests.support.effort import tries
from tests.support.lanes import heads_of_lanes, lanes
from tests.support.ledgers import ledger_location

names = st.sampled_from(NAMES)


class Machine(RuleBasedStateMachine):
    """Each rule is something that happens; what must hold is checked whenever a message leaves, and after each."""

    engine = "sqlite"
    examples = 15

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.ended = contextlib.ExitStack()
        folder = Path(self.ended.enter_context(tempfile.TemporaryDirectory()))
        random.seed(seed)
        self.world = World(self.ended.enter_context(ledger_location(self.engine, folder)), seed)

    @rule(
        projects=st.lists(st.integers(1, 4), min_size=1, max_size=6), step=st.sampled_from([0, 0, -200, -7_200_000])
    )
    def open(self, projects: list[int], step: int) -> None:
        """Events are recorded; where nothing is in the way they go out at once, whatever the wall clock does."""
        world = self.world
        idle = [name for name in world.wanted if world.is_well(name) and not world.open_of(name) and name != "slow"]
        before = world.sent.copy()
        world.run(world.record(projects, step))
        fresh = {name: world.open_of(name) for name in idle}
        world.wait(MOMENT_S + 0.03 * len(projects))
        for name, events in fresh.items():
            for event_id in events:
                assert world.sent[name, event_id] > before[name, event_id], f"{name}: nobody woke it for {event_id}"

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
            for one in destinations.destination_states(db):
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
        lane_of = {ident: self._lane(name, ident) for ident in chosen}
        idle = world.is_well(name) and not world.open_of(name) and name != "slow"
        before = world.sent.copy()
        with world.beside(noticed=noticed) as db:
            replay.queue_replays(
                db, row[0], [Replay(ident, lane) for ident, lane in lane_of.items()], now=times.now()
            )
        for ident in chosen:
            if (name, ident) not in world.in_flight:
                world.may_send[name, ident] = True
        world.wait((0 if noticed else CHECK_INTERVAL_S) + MOMENT_S + 0.03 * len(chosen))
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
            world.run(world.reload(wanted))
        except LedgerUnavailable:
            return
        world.wanted = wanted
        if past_is_new and world.is_well("past"):
            world.wait(MOMENT_S + 0.05 * world.told)
            assert not world.open_of("past"), "the past was opened, and nobody woke its outbox"

    @rule(seconds=st.sampled_from([0.5, 3.0]), table=st.sampled_from([None, "sightings", "destinations"]))
    def ledger_can_t_be_read(self, seconds: float, table: str | None) -> None:
        """All of it, or what messages are made of, or how the destinations stand."""
        world = self.world
        world.read_trouble = world.loop.time() + seconds
        world.run(world.record([1, 2, 3], 0))
        world.deny_reads(table)
        world.loop.call_later(seconds, world.unless_ended(world.allow_reads))

    @rule(seconds=st.sampled_from([0.5, 3.0]), later=st.sampled_from([0.0, 0.006, 0.012]))
    def ledger_can_t_be_written(self, seconds: float, later: float) -> None:
        """At once, or when messages are under way, whose outcomes then can't be noted."""
        world = self.world
        world.run(world.record([1, 2, 3], 0))
        world.write_trouble = world.loop.time() + later + seconds
        world.loop.call_later(later, world.unless_ended(world.deny_writes))
        world.loop.call_later(later + seconds, world.unless_ended(world.allow_writes))
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
        world.run(world.record(list(range(1, count + 1)), 0))
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
        patience_s = MOMENT_S + (0 if noticed else CHECK_INTERVAL_S)
        self._change(name, destinations.pause, noticed, why="by hand", now=times.now())
        world.wait(patience_s)
        before = world.sent.copy()
        world.run(world.record([1, 2], 0))
        world.wait(CHECK_INTERVAL_S)
        assert all(world.sent[name, event_id] == before[name, event_id] for event_id in world.open_of(name))
        kept = world.open_of(name)
        self._change(name, destinations.resume, noticed)
        world.wait(patience_s + 2 / RATE)
        assert not kept & world.open_of(name), f"{name}: resumed, and nobody saw it"

    @rule(concurrency=st.integers(1, 3), later=st.sampled_from([0.002, 0.006, 0.012]))
    def reloaded_with_messages_under_way(self, concurrency: int, later: float) -> None:
        """They end first: none is on its way twice, and none is given up."""
        world = self.world
        world.run(world.record([1, 2, 3, 4], 0))
        world.run(asyncio.sleep(later))
        self.reloaded(chosen=set(world.wanted), concurrency=concurrency)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def lanes_are_what_deliveries_say(self) -> None:
        assert lanes(self.world.monitor) == heads_of_lanes(self.world.monitor)

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
            world.run(world.reload(world.wanted))
            world.wait(LONG_S)
            assert not world.open_since, f"{set(world.open_since)} do not go out"
            world.stop(patience_s=1)
        finally:
            world.close()
            self.ended.close()


class PostgresMachine(Machine):
    """The same with a ledger in PostgreSQL."""

    engine = "postgresql"
    examples = 3


@pytest.mark.long
@pytest.mark.usefixtures("sink_kind")
@pytest.mark.parametrize("machine", [Machine, pytest.param(PostgresMachine, marks=pytest.mark.postgresql)])
def test_whatever_happens(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(deadline=None, stateful_step_count=30, max_examples=tries(machine.examples))
    )
