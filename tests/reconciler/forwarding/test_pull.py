"""`kind: pull`: what a consumer fetches, and what its cursors acknowledge."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import SECOND, Millis
from reconciler.forwarding import pulling
from reconciler.forwarding.outbox import CHECK_INTERVAL_S
from reconciler.forwarding.pull_cursor import LONGEST, Fetched, WrongCursor, decoded, encoded
from reconciler.forwarding.pull_formatters import PullFormatters
from reconciler.forwarding.pulling import Batch, Ledgers, Paused, Pulls
from reconciler.ledger import beside
from reconciler.ledger.errors import LedgerError, LedgerUnavailable
from reconciler.ledger.queue import destinations, pulled, replay
from reconciler.ledger.queue.destinations import Breaker, DestinationSpec
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.queue.pulled import HandedOut
from reconciler.ledger.queue.replay import Replay
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids, go_on_with, next_number, rename_from_here
from tests.reconciler.forwarding.world import Onlooker
from tests.support.effort import tries
from tests.support.ledgers import NewLedger

ROUTE = Route(1, "project", lambda _: True)


class Job:
    """A destination of `kind: pull` in a ledger, and a consumer that asks for its events."""

    def __init__(self, db: Database, **more: Any) -> None:
        made = {"name": "job", "kind": "pull"} | more
        needed = {"receiver": {"hooks": [{"token": "x"}]}, "admin": {"port": 1}}
        self.config = Config.model_validate(needed | {"destinations": [made]})
        self.db = db
        self.pulls = Pulls(lambda: self.config)
        self.recorded = 0
        self.writes_left = 1_000_000
        with transaction(db):
            destinations.sync(db, [DestinationSpec("job")], now=Millis(0))

    def record(self, projects: Sequence[int], **body: Any) -> None:
        """An event in each of these projects."""
        now = times.now()
        some = []
        for project in projects:
            self.recorded += 1
            n = self.recorded
            some.append(
                Sighting(
                    source="webhook:default",
                    source_id=f"{n}",
                    identity=Identity(f"note:{n}", Millis(now + n), Precision.UNIQUE_ID),
                    summary=Summary(kind="note", project_id=project, object=f"issue/{n}"),
                    seen_at=now,
                    payload=f'{{"n": {n}, "big": 1e400}}',
                    payload_sha=f"{n}",
                    headers={"Content-Type": "application/json"},
                )
            )
        with transaction(self.db):
            record(self.db, some, now=now, routes=[ROUTE])

    def replay(self, event_id: int, project: int) -> None:
        replay.queue_replays(self.db, 1, [Replay(event_id, f"project:{project}")], now=times.now())

    async def ask(self, cursor: str | None = None, *, limit: int = 100, wait: int = 0) -> Batch:
        async def is_gone() -> bool:
            return False

        def reading() -> contextlib.nullcontext[Database]:
            return contextlib.nullcontext(self.db)

        def writing() -> contextlib.nullcontext[Database]:
            if self.writes_left == 0:
                raise LedgerUnavailable("the disk is full")
            self.writes_left -= 1
            return contextlib.nullcontext(self.db)

        ledgers = Ledgers(reading, writing)
        return await self.pulls.pull(ledgers, "job", cursor, limit=limit, wait=Millis(wait), is_gone=is_gone)

    def get(self, cursor: str | None = None, *, limit: int = 100) -> tuple[list[int], str]:
        """The numbers of the events that are handed out, and the cursor."""
        found = asyncio.run(self.ask(cursor, limit=limit))
        return [event.event_id for event, _ in found.events], found.cursor

    def states(self) -> list[str]:
        return [state for (state,) in self.db.execute("SELECT state FROM deliveries ORDER BY event_id").fetchall()]


class Consumer(RuleBasedStateMachine):
    """A consumer that goes from cursor to cursor, asks twice, comes back with cursors of long ago, and is not alone,
    while events are recorded and replayed.
    """

    new: NewLedger

    @initialize()
    def begin(self) -> None:
        self.ended = contextlib.ExitStack()
        self.job = Job(self.ended.enter_context(self.new()))
        self.cursors: list[str | None] = [None]
        self.project_of: dict[int, int] = {}
        self.unseen: set[int] = set()
        """Events that were recorded, or replayed after they were acknowledged, and not handed out since then."""

    @rule(projects=st.lists(st.integers(1, 3), min_size=1, max_size=5))
    def record(self, projects: list[int]) -> None:
        self.job.record(projects)
        for project in projects:
            event_id = len(self.project_of) + 1
            self.project_of[event_id] = project
            self.unseen.add(event_id)

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if self.project_of:
            event_id = data.draw(st.sampled_from(sorted(self.project_of)))
            if event_id not in self.pending():  # else it is handed out again anyway, until it is acknowledged
                self.unseen.add(event_id)
            self.job.replay(event_id, self.project_of[event_id])

    @rule(data=st.data(), limit=st.integers(1, 4))
    def ask(self, data: st.DataObject, limit: int) -> None:
        newest_first = data.draw(st.sampled_from(self.cursors[::-1]))
        self._ask(newest_first, limit)

    @rule(limit=st.integers(1, 4))
    def go_on(self, limit: int) -> None:
        self._ask(self.cursors[-1], limit)

    def _ask(self, cursor: str | None, limit: int) -> list[int]:
        found, cursor = self.job.get(cursor, limit=limit)
        assert len(found) <= limit
        pending = self.pending()
        for project in {self.project_of[one] for one in found}:  # of each lane, the first ones
            own = [one for one in found if self.project_of[one] == project]
            assert own == [one for one in pending if self.project_of[one] == project][: len(own)]
        self.unseen.difference_update(found)
        self.cursors.append(cursor)
        assert self.unseen <= set(pending), "acknowledged without having been handed out"
        return found

    def pending(self) -> list[int]:
        rows = self.job.db.execute("SELECT event_id FROM deliveries WHERE state = 'pending' ORDER BY event_id")
        return [event_id for (event_id,) in rows.fetchall()]

    def teardown(self) -> None:
        while self._ask(self.cursors[-1], 4):
            pass
        assert (self.unseen, self.pending()) == (set(), [])
        self.ended.close()


def test_every_event_is_seen_whatever_the_consumer_repeats(new_ledger: NewLedger) -> None:
    made = type("Made", (Consumer,), {"new": staticmethod(new_ledger)})
    run_state_machine_as_test(made, settings=settings(max_examples=tries(15), stateful_step_count=20))


def test_a_cursor_acknowledges_its_batch_once_with_an_attempt_each(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1, 1, 2])
        first, cursor = job.get(limit=2)
        assert first == [1, 3]  # lanes share a batch
        assert job.get(limit=2)[0] == first, "nothing was acknowledged"
        assert job.get(cursor)[0] == [2]
        assert job.get(cursor)[0] == [2]
        assert job.states() == ["delivered", "pending", "delivered"]
        sql = "SELECT a.event_id, a.number, a.error_class, d.sighting_id FROM attempts a JOIN deliveries d " \
              "ON d.event_id = a.event_id ORDER BY 1"  # fmt: skip
        assert db.execute(sql).fetchall() == [(1, 1, None, 1), (3, 1, None, 3)]


def test_the_sighting_that_was_handed_out_is_the_delivered_one(new_ledger: NewLedger) -> None:
    """Another one may have become the event's since then."""
    with new_ledger() as db:
        job = Job(db)
        job.record([1, 1])
        _, cursor = job.get(limit=1)
        db.execute("UPDATE events SET sighting_id = 2 WHERE id = 1")
        job.get(cursor)
        assert db.execute("SELECT sighting_id FROM deliveries WHERE event_id = 1").fetchall() == [(1,)]


def test_what_was_replayed_since_is_not_acknowledged(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1])
        _, cursor = job.get()
        assert job.get(cursor)[0] == []
        job.replay(1, 1)
        assert job.get(cursor)[0] == [1]
        db.execute("UPDATE deliveries SET opened_at = '2000-01-01T00:00:00.000Z'")  # the clock had been set back
        assert job.get(cursor)[0] == [1]
        _, after = job.get(cursor)
        assert job.get(after)[0] == []


def test_a_removed_destination_s_cursor_does_not_acknowledge_for_a_new_one(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1])
        at = times.now()
        beside.remove(db, 1)
        with transaction(db):
            destinations.sync(db, [DestinationSpec("job")], now=at)
        db.execute("UPDATE destinations SET id = 1")
        job.replay(1, 1)
        db.execute("UPDATE deliveries SET replays = 0")
        before = encoded(Fetched(Millis(at - 1), [HandedOut(1, 1, 0)]), 1, "job", event_ids(db))
        assert job.get(before)[0] == [1]


def test_a_clock_that_was_set_back_keeps_nothing_from_being_acknowledged(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1])
        db.execute("UPDATE deliveries SET opened_at = '2999-01-01T00:00:00.000Z'")
        _, cursor = job.get()
        assert job.get(cursor)[0] == []


@pytest.mark.parametrize(
    "way", ["cut", "changed", "of another destination", "of a removed one", "not base64", "no number", "é"]
)
def test_a_cursor_that_is_none_is_refused(new_ledger: NewLedger, way: str) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1, 2, 3])
        _, cursor = job.get()
        wrong = {
            "cut": cursor[:-4],
            "changed": ("A" if cursor[0] != "A" else "B") + cursor[1:],
            "of another destination": encoded(Fetched(Millis(9), [HandedOut(1, 1, 0)]), 2, "job", event_ids(db)),
            "of a removed one": encoded(Fetched(times.now(), [HandedOut(1, 1, 0)]), 1, "old", event_ids(db)),
            "not base64": "?" * 12,
            "no number": "_" * 24,
            "é": "é",
        }
        with pytest.raises(WrongCursor):
            job.get(wrong[way])
        assert set(job.states()) == {"pending"}


def test_a_cursor_from_before_a_restore_does_not_acknowledge_what_has_its_numbers_now(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1, 1])
        _, of_both = job.get()
        _, of_first = job.get(limit=1)
        with transaction(db):  # as if the ledger had been restored from a backup with one event
            for table in ("deliveries", "sightings", "events"):
                db.execute(f"DELETE FROM {table} WHERE {'id' if table == 'events' else 'event_id'} = 2")
            go_on_with(db, 2)
            rename_from_here(db)
        job.record([1])
        assert next_number(db) == 3
        with pytest.raises(WrongCursor):
            job.get(of_both)
        assert job.get(of_first)[0] == [2]


@given(
    st.integers(0, 1 << 50),
    st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(0, 1 << 62), st.integers(0, 300)), max_size=8),
)
def test_a_cursor_says_what_was_put_into_it(at: int, some: list[tuple[int, int, int]]) -> None:
    unique = {one[0]: HandedOut(*one) for one in sorted(some)}
    fetched = Fetched(Millis(at), list(unique.values()))
    assert decoded(encoded(fetched, 7, "job", str), 7, "job", str) == fetched


def test_a_cursor_fits_into_a_url(monkeypatch: pytest.MonkeyPatch, new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1] * 100)
        monkeypatch.setattr("reconciler.forwarding.pull_cursor.LONGEST", 60)
        seen, cursor = [], None
        while True:
            found, cursor = job.get(cursor)
            assert len(cursor) <= 60
            if not found:
                break
            seen += found
        assert seen == list(range(1, 101))
        assert LONGEST < 8000


def test_an_event_that_can_t_be_transformed_is_a_dead_letter_and_blocks_nothing(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db, transform={"template": "{{ 1 / (body.n - 1) }}", "content_type": "text/plain"})
        counted = Counted()
        job.pulls.watcher = counted
        job.record([1, 1])
        try:
            assert job.get(limit=1)[0] == [2], "what follows is looked for at once"
        finally:
            job.pulls.close()
        assert job.states() == ["dead", "pending"]
        assert counted.outcomes == ["transform"]
        assert db.execute("SELECT number, error_class FROM attempts").fetchall() == [(1, "transform")]


def test_a_transform_that_always_fails_does_not_go_through_all_events_at_once(
    monkeypatch: pytest.MonkeyPatch, new_ledger: NewLedger
) -> None:
    with new_ledger() as db:
        job = Job(db, transform={"template": "{{ 1 / 0 }}"})
        job.record([1, 2, 3])
        monkeypatch.setattr(pulling, "PATIENCE_S", 0)
        try:
            assert job.get()[0] == []
        finally:
            job.pulls.close()
        assert job.states() == ["dead", "pending", "pending"]


def test_a_stop_does_not_wait_for_a_transform_and_its_event_stays_pending(
    monkeypatch: pytest.MonkeyPatch, new_ledger: NewLedger
) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with new_ledger() as db:
        job = Job(db, transform={"template": endless})
        job.record([1, 2])

        async def go() -> None:
            begun = asyncio.Event()
            loop = asyncio.get_running_loop()
            message = pulling._message

            def noted(*arguments: Any) -> Any:
                loop.call_soon_threadsafe(begun.set)
                return message(*arguments)

            monkeypatch.setattr(pulling, "_message", noted)
            waits = asyncio.create_task(job.ask(wait=60 * SECOND))
            await begun.wait()
            job.pulls.waiting.stop()
            job.pulls.close()
            assert (await waits).events == []
            assert (await job.ask()).events == [], "and nothing is begun again"

        asyncio.run(go())
        assert job.states() == ["pending", "pending"]
        assert db.execute("SELECT count(*) FROM attempts").fetchall() == [(0,)]


def test_who_uses_a_formatter_keeps_others_waiting_no_longer_than_they_like(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        config = Job(db).config
        formatters = PullFormatters()
        first = formatters.of(config, config.destinations[0], str, until=0)
        second = formatters.of(config, config.destinations[0], str, until=0)
        with first as made, second as none:
            assert (made is None, none) == (False, None)
            closes = threading.Thread(target=formatters.close, daemon=True)
            closes.start()
            closes.join(10)
            assert not closes.is_alive(), "it waits for who uses one"
        with formatters.of(config, config.destinations[0], str, until=0) as none:
            assert none is None


def test_only_what_changes_something_takes_the_write_lock(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.writes_left = 0
        found, empty = job.get()
        assert found == []
        job.record([1])
        found, cursor = job.get(empty)
        assert found == [1]
        with pytest.raises(LedgerError):
            job.get(cursor)


def test_what_was_recorded_before_the_ledger_failed_is_counted(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db, transform={"template": "{{ 1 / (body.n - 2) }}"})
        job.pulls.watcher = counted = Counted()
        job.record([1, 1])
        try:
            _, cursor = job.get(limit=1)
            job.writes_left = 1
            with pytest.raises(LedgerError):
                job.get(cursor)
        finally:
            job.pulls.close()
        assert job.states() == ["delivered", "pending"]
        assert counted.outcomes == ["delivered"]


def test_a_changed_transform_is_used_at_once(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1])
        [(_, plain)] = asyncio.run(job.ask()).events
        changed = Job(db, transform={"fields": ["n"]}, format="cloudevents").config
        job.config = changed
        [(_, made)] = asyncio.run(job.ask()).events
        assert plain.body == b'{"n": 1, "big": 1e400}'
        assert b'"data":{"n":1}' in made.body
        assert plain.id == made.id


def test_large_events_are_handed_out_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1] * 5)
        monkeypatch.setattr(pulling, "MOST_BYTES", 70)
        assert job.get()[0] == [1, 2, 3, 4], "a body has 22 bytes"
        some = pulled.next_deliveries(db, 1, now=times.now(), limit=5, most_bytes=30)
        assert [one.queued.event_id for one in some] == [1, 2], "no more is read"
        job.config = Job(db, format="cloudevents").config
        assert job.get()[0] == [1], "what is made of it counts too"


def test_a_paused_destination_takes_acknowledgements_and_hands_out_nothing(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1, 1])
        _, cursor = job.get(limit=1)
        beside.pause(db, 1, now=times.now())
        with pytest.raises(Paused, match="job is paused \\(by hand\\): `destinations resume job`"):
            job.get(cursor)
        assert job.states() == ["delivered", "pending"]


def test_what_held_back_a_destination_that_was_sent_to_ends(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        job.record([1])
        with transaction(db):
            destinations.note_breaker(db, 1, Breaker("open", 5, times.now()))
            db.execute("UPDATE deliveries SET state = 'retrying', next_attempt_at = '2999-01-01T00:00:00.000Z'")
        assert job.get()[0] == []
        with transaction(db):
            pulled.begin(db, 1)
        assert job.get()[0] == [1]
        assert destinations.destination_states(db)[0].state == "up"


class Counted(Onlooker):
    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        self.outcomes.append(outcome)


def test_who_waits_is_woken_by_what_is_opened_and_what_is_delivered_is_counted(new_ledger: NewLedger) -> None:
    with new_ledger() as db:
        job = Job(db)
        counted = Counted()
        job.pulls.watcher = counted

        async def go() -> None:
            looked = asyncio.Event()
            loop = asyncio.get_running_loop()
            look = job.pulls._look

            def noted(*arguments: Any) -> Any:
                found = look(*arguments)
                loop.call_soon_threadsafe(looked.set)
                return found

            job.pulls._look = noted  # type: ignore[assignment,method-assign]
            waits = asyncio.create_task(job.ask(wait=60 * SECOND))
            await looked.wait()
            job.record([1])
            job.pulls.waiting.opened([Opened(1).destination_id])
            async with asyncio.timeout(CHECK_INTERVAL_S - 1):  # before it looks by itself
                batch = await waits
            assert len(batch.events) == 1
            await job.ask(batch.cursor)
            waits = asyncio.create_task(job.ask(wait=60 * SECOND))
            job.pulls.waiting.stop()
            assert (await waits).events == []

        asyncio.run(go())
        assert counted.outcomes == ["delivered"]
