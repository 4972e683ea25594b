"""The outbox and the forwarder, one thing at a time, under a virtual clock (see `world`)."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.destinations import Transform
from reconciler.events import times
from reconciler.events.times import DAY, HOUR, MINUTE, SECOND, Millis
from reconciler.forwarding.message import Answer, Message
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.queue import deliveries, destinations
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN
from reconciler.location import Location
from tests.reconciler.forwarding.world import (
    LONG_S,
    LONGEST_PROBE_S,
    LONGEST_RETRY_S,
    MOMENT_S,
    RATE,
    World,
    destination,
)
from tests.support import outcomes
from tests.support.lanes import heads_of_lanes, lanes
from tests.support.ledgers import ENGINES, ledger_location
from tests.support.sink import Sink

SQLITE_ONLY = pytest.mark.parametrize("ledger_at", ["sqlite"], indirect=True)


def states(world: World, name: str) -> list[str]:
    sql = (
        "SELECT state FROM deliveries JOIN destinations x ON x.id = destination_id WHERE x.name = ? ORDER BY event_id"
    )
    return [state for (state,) in world.monitor.execute(sql, [name])]


def test_a_rate_is_kept_to_the_end(world: World) -> None:
    world.run(world.record([1] * 40))
    world.wait(39 / RATE + MOMENT_S)  # that it is kept is checked as each is sent
    assert world.sent.total() == 4 * 40
    assert not world.open_of("slow")


def test_a_past_is_sent_as_it_is_opened(world: World) -> None:
    world.run(world.record([2] * 7 + [1]))  # what the new one gets stands in the third part
    world.wait(8 / RATE)
    world.run(world.reload(world.wanted | {"past": destination("past")}))
    world.wait(MOMENT_S)
    assert world.sent["past", 8] == 1


def test_every_lane_has_its_turn_before_one_has_a_second(ledger_at: Location) -> None:
    with closing(connect(ledger_at)) as db:
        fill(db, lanes=100, each=3)
        for turn in range(3):
            for number in range(100):
                [lane] = deliveries.due_lanes(db, 1, now=times.now(), limit=1)
                first = deliveries.first_of_lanes(db, 1, [lane], now=times.now(), limit=1, each=10)
                assert first == {f"lane:{number:05d}": [number + 100 * turn + 1]}
                with transaction(db):
                    outcomes.deliver(db, attempt(number + 100 * turn + 1))


def test_lanes_share_a_batch_and_one_fills_what_the_others_leave(ledger_at: Location) -> None:
    now = times.now()

    def first(limit: int, each: int) -> list[list[int]]:
        lanes = deliveries.due_lanes(db, 1, now=now, limit=10)
        return list(deliveries.first_of_lanes(db, 1, lanes, now=now, limit=limit, each=each).values())

    with closing(connect(ledger_at)) as db:
        fill(db, lanes=2, each=10)
        assert first(5, 5) == [[1, 3, 5], [2, 4]]
        assert first(5, 1) == [[1], [2]]
        assert first(100, 100) == [list(range(1, 21, 2)), list(range(2, 21, 2))]
        with transaction(db):
            outcomes.retry(db, attempt(4), pause=SECOND, now=now)  # it holds up those behind it
        assert first(8, 8) == [[1, 3, 5, 7, 9, 11, 13], [2]]


@pytest.mark.parametrize("kind", ["waiting", "blocked", "ready"])
def test_what_goes_next_costs_the_same_however_many_there_are(tmp_path: Path, kind: str) -> None:
    def steps(lanes: int) -> int:
        with closing(connect(tmp_path / f"{lanes}.db")) as db:
            fill(db, lanes=lanes, each=1 if kind == "waiting" else 3)
            if kind != "ready":
                later = times.iso(Millis(times.now() + HOUR))
                with transaction(db):
                    db.execute(
                        "UPDATE deliveries SET state = 'retrying', next_attempt_at = ? WHERE event_id <= ?",
                        [later, lanes],
                    )
            counted = 0

            def count() -> int:
                nonlocal counted
                counted += 1
                return 0

            db.conn.set_progress_handler(count, 1)
            lanes_due = deliveries.due_lanes(db, 1, now=times.now(), limit=8)
            first = deliveries.first_of_lanes(db, 1, lanes_due, now=times.now(), limit=8, each=10)
            assert sum(map(len, first.values())) == (8 if kind == "ready" else 0)
            deliveries.next_due(db, 1, after=times.now())
            return counted

    assert steps(3000) <= steps(30)


@pytest.mark.parametrize("lanes", [1, None])
def test_what_became_of_one_costs_the_same_however_many_wait(tmp_path: Path, lanes: int | None) -> None:
    def steps(waiting: int) -> int:
        with closing(connect(tmp_path / f"{waiting}.db")) as db:
            fill(db, lanes=lanes or waiting, each=1 if lanes is None else waiting)
            counted = 0

            def count() -> int:
                nonlocal counted
                counted += 1
                return 0

            with transaction(db):
                db.conn.set_progress_handler(count, 1)
                outcomes.retry(db, attempt(1), pause=SECOND, now=times.now())
                outcomes.deliver(db, attempt(1))
                db.conn.set_progress_handler(None, 0)
            return counted

    assert steps(3000) <= steps(30)


def fill(db: Database, *, lanes: int, each: int) -> None:
    """A destination with so many lanes; event 1 is the first of the first lane, event `lanes` that of the last."""
    now = times.iso(times.now())
    rows = ((number + 1, f"lane:{number % lanes:05d}", now, now) for number in range(lanes * each))
    with transaction(db):
        destinations.sync(db, [DestinationSpec("one")], now=times.now())
        numbers = range(1, lanes * each + 1)
        db.executemany(
            "INSERT INTO events (id, kind, happened_at, recorded_at, sighting_id) VALUES (?, 'note', '', '', 0)",
            [(number,) for number in numbers],
        )
        db.executemany(
            "INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at) "
            "VALUES (?, 1, 'pending', ?, ?, ?)",
            rows,
        )


def attempt(event_id: int, **more: Any) -> deliveries.Attempt:
    return deliveries.Attempt(event_id, 1, None, 1, times.now(), times.now(), **more)


Change = tuple[str, int]


@pytest.mark.parametrize("engine", ENGINES)
def test_lanes_are_what_deliveries_say_whoever_changes_them(engine: str, tmp_path: Path) -> None:
    @given(st.lists(st.tuples(st.sampled_from([*CHANGES]), st.integers(1, EVENTS))))
    def check(changes: list[Change]) -> None:
        db.begin()
        try:
            for change in changes:
                make(db, change)
                assert lanes(db) == heads_of_lanes(db)
        finally:
            db.rollback()

    with ledger_location(engine, tmp_path) as location, closing(connect(location)) as db:
        fill(db, lanes=3, each=EVENTS // 3)
        check()


@pytest.mark.postgresql
def test_lanes_have_their_turns_in_the_same_order_in_each_database(tmp_path: Path) -> None:
    """As long as a statement changes one delivery, which is what the service does."""

    @given(st.lists(st.tuples(st.sampled_from(SINGLE), st.integers(1, EVENTS))))
    def check(changes: list[Change]) -> None:
        one.begin()
        other.begin()
        try:
            for change in changes:
                make(one, change)
                make(other, change)
                turns = "SELECT lane, event_id FROM lanes ORDER BY turn"
                assert one.execute(turns).fetchall() == other.execute(turns).fetchall()
        finally:
            one.rollback()
            other.rollback()

    with (
        ledger_location("sqlite", tmp_path) as file,
        ledger_location("postgresql", tmp_path) as server,
        closing(connect(file)) as one,
        closing(connect(server)) as other,
    ):
        fill(one, lanes=3, each=EVENTS // 3)
        fill(other, lanes=3, each=EVENTS // 3)
        check()


EVENTS = 12


def make(db: Database, change: Change) -> None:
    what, event_id = change
    db.execute(CHANGES[what], {"event": event_id, "lane": f"lane:{event_id % 3:05d}", "other": "lane:00001"})


_OPENED = "INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at) "
CHANGES = {
    "open": f"{_OPENED} VALUES (:event, 1, 'pending', :lane, '', '') ON CONFLICT DO NOTHING",
    "replay": f"{_OPENED} VALUES (:event, 1, 'pending', :lane, '', '') "
    "ON CONFLICT (event_id, destination_id) DO UPDATE SET state = 'pending', lane = excluded.lane",
    "deliver": "UPDATE deliveries SET state = 'delivered', attempts = attempts + 1 WHERE event_id = :event",
    "retry": "UPDATE deliveries SET state = 'retrying', attempts = attempts + 1, next_attempt_at = 'x' || attempts "
    f"WHERE event_id = :event AND {OPEN}",
    "bury": "UPDATE deliveries SET state = 'dead', attempts = attempts + 1 WHERE event_id = :event",
    "skip": "UPDATE deliveries SET state = 'dead' WHERE event_id = :event",
    "delete": "DELETE FROM deliveries WHERE event_id = :event",
    "move": "UPDATE deliveries SET lane = :other WHERE event_id = :event",
    "resume": "UPDATE deliveries SET state = 'pending' WHERE state = 'retrying'",
    "open many": f"{_OPENED} SELECT id, 1, 'pending', 'lane:0000' || (id % 2), '', '' FROM events "
    "WHERE id <= :event ORDER BY id DESC ON CONFLICT DO NOTHING",
    "retry many": "UPDATE deliveries SET state = 'retrying', attempts = attempts + 1, next_attempt_at = "
    f"'x' || event_id WHERE event_id >= :event AND {OPEN}",
    "bury many": "UPDATE deliveries SET state = 'dead', attempts = attempts + 1 WHERE event_id <= :event",
    "move many": "UPDATE deliveries SET lane = 'lane:0000' || ((event_id + :event) % 3) WHERE event_id <> :event",
    "delete many": "DELETE FROM deliveries WHERE event_id % 3 = :event % 3",
    "replay many": "UPDATE deliveries SET state = 'pending' WHERE event_id >= :event",
}
SINGLE = [what for what in CHANGES if "many" not in what and what != "resume"]


class TestTrouble:
    """What fails begins again by itself, says so, and takes nothing else down."""

    @pytest.mark.parametrize("table", ["destinations", "lanes", "sightings"])
    def test_the_ledger_can_t_be_read_for_a_while(self, world: World, table: str) -> None:
        world.deny_reads(table)
        world.forwarder.look_again()
        world.run(world.record([1, 2, 3]))
        world.wait(30)
        running = world.running
        assert not running.done()
        if table == "lanes":
            assert "outbox of single" in world.failing
        world.allow_reads()
        world.wait(LONG_S)
        assert not world.open_since
        assert world.failing == {}
        assert not running.done()

    def test_an_outbox_is_a_part_whose_restarts_are_counted_until_it_is_gone(self, world: World) -> None:
        world.deny_reads("lanes")
        world.wait(30)
        restarts = {part.name: part.restarts for part in world.supervisor.parts()}
        assert restarts["outbox of single"] > 2
        assert restarts["past of single"] == 0
        world.run(world.reload({"projects": world.wanted["projects"]}))
        assert [part.name for part in world.supervisor.parts()] == [
            "forwarder",
            "outbox of projects",
            "past of projects",
        ]
        world.allow_reads()

    def test_a_kind_that_takes_itself_for_the_program_ends_nothing(self, world: World) -> None:
        answer, exits = world.behave, [SystemExit(3)]

        async def behave(name: str, message: Message) -> Answer:
            if exits:
                raise exits.pop()
            return await answer(name, message)

        Sink.behave = behave
        world.run(world.record([1]))
        world.wait(60)
        assert not world.open_since
        errors = "SELECT error_class, error FROM attempts WHERE error IS NOT NULL"
        assert world.monitor.execute(errors).fetchall() == [("system_exit", "SystemExit: 3")]

    def test_a_kind_that_never_closes_holds_no_reload_up(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def never(_: Sink) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(Sink, "close", never)
        world.run(asyncio.wait_for(world.reload({"projects": world.wanted["projects"]}), LONG_S))
        world.run(world.record([1]))
        world.wait(MOMENT_S)
        assert world.sent["projects", 1] == 1

    def test_who_is_told_by_the_writer_never_raises(self, world: World) -> None:
        world.reader.close()
        world.forwarder.opened([Opened(1), Opened(99)])
        world.forwarder.look_again()
        world.wait(1)
        assert not world.running.done()
        world.reader = connect(world.location, readonly=True)

    @SQLITE_ONLY
    def test_an_event_that_can_t_be_made_a_message_of_holds_nobody_up(self, world: World) -> None:
        world.mode["single"] = "hangs"
        world.run(world.record([1, 2]))
        with world.beside(noticed=True) as db:
            db.execute("UPDATE sightings SET payload = X'FF' WHERE id = 1")
        world.mode["single"] = "up"
        world.run(world.record([1, 3]))
        world.wait(60)
        assert states(world, "single") == ["retrying", "delivered", "delivered", "delivered"]
        sql = "SELECT last_error FROM deliveries WHERE state = 'retrying'"
        assert "the message can't be built" in world.monitor.execute(sql).fetchone()[0]

    def test_what_can_t_be_built_changes_nothing(self, world: World) -> None:
        wrong = destination("single", 3).model_copy(update={"kind": "smoke"})
        for wanted in ([wrong], [destination("projects", 3), wrong]):
            with pytest.raises(ValueError, match="smoke"):
                world.run(world.forwarder.prepare(wanted))
        world.run(world.record([1]))
        world.wait(MOMENT_S)
        assert [world.sent[name, 1] for name in ("projects", "single", "slow")] == [1, 1, 1]

    def test_what_the_ledger_does_not_take_changes_nothing(self, world: World) -> None:
        prepared = world.run(world.forwarder.prepare([destination("single", 3)]))
        world.wait(MOMENT_S)
        world.deny_writes()
        with pytest.raises(LedgerError):
            world.run(world.forwarder.apply(prepared))
        world.allow_writes()
        world.run(world.record([1]))
        world.wait(MOMENT_S)
        assert [world.sent[name, 1] for name in ("projects", "single", "slow")] == [1, 1, 1]


class TestTheClock:
    @pytest.mark.parametrize("step", [5 * DAY, -5 * DAY, HOUR, -HOUR, -200])
    def test_set_while_it_runs_changes_nothing(self, world: World, step: int) -> None:
        world.mode["single"] = "down"
        world.run(world.record([1, 2, 3, 4]))
        world.wait(3)
        world.clock.step(step)
        world.wait(20)  # nothing was hurried: that is checked as each is sent
        assert states(world, "single") == ["retrying"] * 4
        world.mode["single"] = "up"
        world.wait(8 + 4 + MOMENT_S)
        assert states(world, "single") == ["delivered"] * 4

    def test_what_was_asked_for_is_kept_over_a_restart(self, world: World) -> None:
        """A Retry-After of three seconds, longer than the first pause: it is not pulled back."""
        world.mode["single"] = "asks"
        world.run(world.record([1]))
        world.wait(MOMENT_S)
        world.stop(patience_s=1)
        world.start()
        world.mode["single"] = "up"
        world.wait(2)
        assert states(world, "single") == ["retrying"]
        world.wait(2)
        assert states(world, "single") == ["delivered"]


def test_due_times_are_pulled_back_to_their_own_pause(ledger_at: Location) -> None:
    now = times.now()
    with closing(connect(ledger_at)) as db:
        fill(db, lanes=4, each=1)
        pauses = [(1, SECOND, 5 * HOUR), (2, 4 * HOUR, 5 * HOUR), (3, 6 * HOUR, 5 * HOUR), (4, MINUTE, MINUTE)]
        with transaction(db):
            for event_id, pause, due in pauses:
                outcomes.retry(db, attempt(event_id), pause=Millis(pause), now=Millis(now + due - pause))
            while deliveries.pull_back(db, 1, longest=MINUTE, now=now, limit=1):
                pass
        kept = dict(db.execute("SELECT event_id, due_at FROM lanes").fetchall())
    expected = {1: SECOND, 2: 4 * HOUR, 3: 5 * HOUR, 4: MINUTE}
    assert kept == {event_id: times.iso(Millis(now + due)) for event_id, due in expected.items()}


HOURS_BACK = -2 * HOUR


@pytest.mark.parametrize("restarted", [False, True])
def test_a_wall_clock_that_is_set_back_delays_nothing(world: World, restarted: bool) -> None:
    """What failed, what is new, and the breaker wait no longer than their pauses, also in another process."""
    world.mode["single"] = world.mode["projects"] = "down"
    world.run(world.record([1, 2, 3, 4]))
    world.wait(1)
    assert breaker(world) == "open"
    world.clock.step(HOURS_BACK)
    if restarted:
        world.stop(patience_s=0)
        world.start()
    world.run(world.record([5, 6]))
    world.mode["single"] = world.mode["projects"] = "up"
    world.wait(LONGEST_PROBE_S + LONGEST_RETRY_S + MOMENT_S)
    assert not world.open_of("single") | world.open_of("projects")


@pytest.mark.parametrize("restarted", [False, True])
def test_resuming_means_now_whatever_the_wall_clock_was_set_to(world: World, restarted: bool) -> None:
    world.mode["single"] = "down"
    world.run(world.record([1, 2, 3, 4]))
    world.wait(1)
    assert breaker(world) == "open"
    world.clock.step(HOURS_BACK)
    if restarted:
        world.stop(patience_s=0)
        world.start()
    world.mode["single"] = "up"
    with world.beside(noticed=True) as db, transaction(db):
        [ident] = [one.id for one in destinations.destination_states(db) if one.name == "single"]
        destinations.resume(db, ident)
    world.wait(5 * MOMENT_S)
    assert not world.open_of("single")


def test_a_fault_of_ours_says_nothing_of_the_destination(world: World) -> None:
    """An event whose transform fails was not sent: a breaker that is half open stays so."""
    broken = destination("single").model_copy(update={"transform": Transform(template="{{ body.missing.deeper }}")})
    world.mode["single"] = "down"
    world.run(world.record([1, 2, 3, 4]))
    world.wait(1)
    assert breaker(world) == "open"
    world.run(world.reload({"single": broken}))
    world.wait(LONG_S)
    assert "dead" in states(world, "single")
    assert breaker(world) != "closed"


def breaker(world: World) -> str:
    state: str = world.monitor.execute("SELECT breaker FROM destinations WHERE name = 'single'").fetchone()[0]
    return state
