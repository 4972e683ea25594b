"""Batches: halving finds exactly the bad messages, and no message overtakes another of its lane."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Batch, BreakerConfig, Destination, RetryConfig
from reconciler.events.sighting import Summary
from reconciler.events.times import Millis
from reconciler.forwarding.kind import Kind, attempt_batch
from reconciler.forwarding.message import ACCEPTED, NOT_SENT, Answer, Message, NotAccepted
from reconciler.forwarding.rate import SendRate
from reconciler.forwarding.rounds import sent_in_parts
from reconciler.forwarding.sending import ALONE_AFTER, together
from reconciler.ledger.queue.deliveries import Outgoing, Queued, Ready
from reconciler.ledger.storage.sql import Sql
from reconciler.ledger.storage.sqlite import SqliteDatabase
from tests.reconciler.forwarding.world import LONG_S, MOMENT_S, MOST, World, destination
from tests.support.damage import overwrite, pages_of
from tests.support.sink import Sink

REJECTED = Answer("http_4xx", "no", status=422, rejected=True)
LATER = Answer("http_5xx", "not now", status=503)


def messages(lanes: Sequence[int]) -> list[Message]:
    return [Message(f"evt_x_{n}", "1", {}, {}, b"{}", Millis(0), f"lane:{lane}") for n, lane in enumerate(lanes)]


def whole(message: Message) -> str:
    """The target of a destination that takes batches as a whole."""
    return "one"


def alone(message: Message) -> None:
    """The target of a destination that confirms messages one by one."""


@given(st.integers(1, 100).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1)))))
def test_a_rejected_batch_is_halved_until_the_bad_ones_are_alone(case: tuple[int, set[int]]) -> None:
    size, bad = case
    accepted: list[str] = []
    requests = 0

    async def send(some: Sequence[Message]) -> list[Answer]:
        nonlocal requests
        requests += 1
        if any(int(one.id.removeprefix("evt_x_")) in bad for one in some):
            return [REJECTED] * len(some)
        accepted.extend(one.id for one in some)
        return [ACCEPTED] * len(some)

    sent = messages([1] * size)
    answers = asyncio.run(sent_in_parts(sent, send, target=whole, halve=True))
    assert [answer.rejected for answer in answers] == [n in bad for n in range(size)]
    assert accepted == [one.id for n, one in enumerate(sent) if n not in bad]  # once each, and in order
    assert requests <= 1 + 2 * len(bad) * (size - 1).bit_length()


@given(st.lists(st.sampled_from([ACCEPTED, REJECTED, LATER]), min_size=1, max_size=20), st.booleans())
def test_nothing_is_sent_after_a_failure_that_may_pass(found: list[Answer], halve: bool) -> None:
    failed = False

    async def send(some: Sequence[Message]) -> list[Answer]:
        nonlocal failed
        assert not failed
        answers = [found[int(one.id.removeprefix("evt_x_"))] for one in some]
        failed = LATER in answers
        return answers

    answers = asyncio.run(sent_in_parts(messages([1] * len(found)), send, target=whole, halve=halve))
    for answer, expected in zip(answers, found, strict=True):
        assert answer is expected or (answer is NOT_SENT and expected is REJECTED and halve and failed)


@given(
    st.integers(1, 20).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1)))),
    st.integers(1, 20),
)
async def test_what_was_answered_before_a_cancellation_is_known(case: tuple[int, set[int]], hangs: int) -> None:
    size, bad = case
    asked: list[set[int]] = []
    waits = asyncio.Event()

    async def send(some: Sequence[Message]) -> list[Answer]:
        asked.append({int(one.id.removeprefix("evt_x_")) for one in some})
        if len(asked) == hangs:
            waits.set()
            await asyncio.Event().wait()
        return [REJECTED if asked[-1] & bad else ACCEPTED] * len(some)

    sending = asyncio.create_task(sent_in_parts(messages([1] * size), send, target=whole, halve=True))
    waiting = asyncio.create_task(waits.wait())
    await asyncio.wait({sending, waiting}, return_when=asyncio.FIRST_COMPLETED)
    sending.cancel()
    waiting.cancel()
    await asyncio.wait({sending})
    known = {n for some in asked[: hangs - 1] if not some & bad or len(some) == 1 for n in some}
    assert sending.cancelled() is not bool(known)
    if known:
        assert {n for n, answer in enumerate(sending.result()) if answer is not NOT_SENT} == known


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), min_size=1, max_size=30), st.booleans()
)
def test_none_overtakes_another_of_its_lane(plan: list[tuple[int, int, bool]], by_target: bool) -> None:
    """Each has a lane, a target, and whether it is accepted. Within a target nothing follows a failure."""
    accepted: list[int] = []

    async def send(some: Sequence[Message]) -> list[Answer]:
        failed: set[tuple[int, int]] = set()
        answers = []
        for number in (int(one.id.removeprefix("evt_x_")) for one in some):
            lane, target, fine = plan[number]
            if not fine:
                failed.add((lane, target))
            answers.append(ACCEPTED if (lane, target) not in failed else LATER)
            accepted.extend([number] if answers[-1].accepted else [])
        return answers

    def target(message: Message) -> int:
        return plan[int(message.id.removeprefix("evt_x_"))][1]

    sent = messages([lane for lane, _, _ in plan])
    answers = asyncio.run(sent_in_parts(sent, send, target=target if by_target else alone, halve=False))
    for lane in range(4):
        mine = [n for n, (other, _, _) in enumerate(plan) if other == lane]
        took = [answers[n].accepted for n in mine]
        assert took == sorted(took, reverse=True), "one was accepted after one that was not"
        assert [n for n in accepted if n in mine] == [n for n in mine if answers[n].accepted]
        if all(plan[n][2] for n in mine):
            assert all(took)


class Odd(Kind):
    """A kind whose batches go wrong as told."""

    config = Destination
    address = "nowhere"

    def __init__(self, what: object) -> None:
        self._what = what

    async def send(self, message: Message) -> Answer:
        raise NotAccepted("no") if message.id == self._what else ValueError

    async def send_batch(self, messages: Sequence[Message]) -> Sequence[Answer]:
        if isinstance(self._what, BaseException):
            raise self._what
        if self._what == "hangs":
            await asyncio.Event().wait()
        return self._what  # type: ignore[return-value]  # what a kind must not return


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (SystemExit(3), "system_exit"),
        (ConnectionResetError("gone"), "connection"),
        ([ACCEPTED], "type_error"),
        ([ACCEPTED, None], "type_error"),
        ([NOT_SENT, NOT_SENT], "type_error"),
        ("hangs", "timeout"),
    ],
)
async def test_whatever_a_kind_does_with_a_batch_each_message_has_an_answer(what: object, error: str) -> None:
    answers = await attempt_batch(Odd(what), messages([1, 2]), timeout_s=0.01)
    assert [answer.error_class for answer in answers] == [error, error]


def test_batches_keep_a_rate_in_every_second() -> None:
    rate = SendRate(5)
    assert rate.burst == 5
    rate.take(Millis(1000), 5)
    assert rate.wait(Millis(1000)) == 1000
    assert SendRate(0.5).burst == 1
    assert SendRate(None).burst is None


@pytest.mark.parametrize(
    ("kind", "takes"),
    [("file", True), ("stdout", True), ("redis", True), ("nats", True), ("mqtt", True), ("rabbitmq", True)],
)
def test_which_kinds_take_batches(kind: str, takes: bool) -> None:
    assert ("batch" in find_kind(kind).config.model_fields) == takes


def test_a_kind_without_batches_says_so() -> None:
    with pytest.raises(ValueError, match="kind other does not take batches"):
        Destination.model_validate({"name": "one", "kind": "other", "batch": {"max": 10}})


class TestInTheOutbox:
    def batches(self, world: World) -> list[int]:
        """The sizes of the batches that are sent from now on."""
        sizes: list[int] = []
        answer = world.behave_batch

        async def behave(name: str, some: Sequence[Message]) -> Sequence[Answer]:
            sizes.append(len(some))
            return await answer(name, some)

        Sink.behave_batch = behave
        return sizes

    def test_one_busy_project_fills_batches(self, world: World) -> None:
        sizes = self.batches(world)
        world.run(world.record([1] * 9))
        world.wait(MOMENT_S * 3)
        assert sizes == [3, 3, 3]

    def test_a_batch_that_is_not_full_waits(self, world: World) -> None:
        sizes = self.batches(world)
        world.run(world.record([1]))
        world.wait(0.01)
        assert sizes == []
        world.run(world.record([2]))
        world.wait(MOMENT_S)
        assert sizes == [2]

    def test_the_bad_ones_are_dead_and_the_others_delivered(self, world: World) -> None:
        async def behave(name: str, some: Sequence[Message]) -> Sequence[Answer]:
            bad = any(one.id.endswith(("_2", "_6")) for one in some)
            return [REJECTED if bad else ACCEPTED] * len(some)

        Sink.behave_batch = behave
        world.run(world.record([1, 1, 1, 2, 2, 2]))
        world.wait(MOMENT_S)
        rows = world.monitor.execute(
            "SELECT event_id, state, attempts, (SELECT count(*) FROM attempts a WHERE a.event_id = d.event_id "
            "AND a.destination_id = d.destination_id) FROM deliveries d JOIN destinations x ON x.id = destination_id "
            "WHERE x.name = 'batched' ORDER BY event_id"
        ).fetchall()
        assert rows == [(n, "dead" if n in (2, 6) else "delivered", 1, 1) for n in range(1, 7)]

    def test_a_stop_between_two_halves_settles_the_first(self, world: World) -> None:
        sent: list[list[int]] = []
        is_hung = True

        async def behave(name: str, some: Sequence[Message]) -> Sequence[Answer]:
            sent.append([int(one.id.rpartition("_")[2]) for one in some])
            if is_hung and sent[-1] == [2, 3]:
                await asyncio.Event().wait()
            return [REJECTED if 3 in sent[-1] else ACCEPTED] * len(some)

        Sink.behave_batch = behave
        world.run(world.record([1, 1, 1]))
        world.wait(MOMENT_S)
        assert sent == [[1, 2, 3], [1], [2, 3]]
        world.stop(patience_s=1)
        is_hung = False
        world.start()
        world.wait(MOMENT_S)
        assert sent[3:] == [[2, 3], [2], [3]]

    def test_a_stop_sends_no_other_half(self, world: World) -> None:
        sent: list[list[int]] = []

        async def behave(name: str, some: Sequence[Message]) -> Sequence[Answer]:
            sent.append([int(one.id.rpartition("_")[2]) for one in some])
            if sent[-1] == [1]:
                await asyncio.sleep(1)
            return [REJECTED if 3 in sent[-1] else ACCEPTED] * len(some)

        Sink.behave_batch = behave
        world.run(world.record([1, 1, 1]))
        world.wait(MOMENT_S)
        world.stop(patience_s=5)
        assert sent == [[1, 2, 3], [1]]
        world.start()
        world.wait(MOMENT_S)
        assert sent[2:] == [[2, 3], [2], [3]]

    def test_a_batch_that_fails_counts_once_and_is_retried_together(self, world: World) -> None:
        later = RetryConfig.model_validate({"schedule": ["5s"]})
        world.run(world.reload({"batched": destination("batched").model_copy(update={"retry": later})}))
        world.mode["batched"] = "down"
        world.run(world.record([1, 1, 1]))
        world.wait(0.05)
        breaker, failures = world.monitor.execute(
            "SELECT breaker, breaker_failures FROM destinations WHERE name = 'batched'"
        ).fetchone()
        assert (breaker, failures) == ("closed", 1)
        due = world.monitor.execute(
            "SELECT DISTINCT d.next_attempt_at, d.attempts FROM deliveries d JOIN destinations x "
            "ON x.id = destination_id WHERE x.name = 'batched'"
        ).fetchall()
        assert [attempts for _, attempts in due] == [1]
        sizes = self.batches(world)
        world.mode["batched"] = "up"
        world.wait(LONG_S)
        assert sizes == [3]

    @pytest.mark.parametrize(
        ("ledger_at", "damaged"),
        [
            ("sqlite", False),
            ("sqlite", True),
            pytest.param("postgresql", False, marks=pytest.mark.postgresql),
        ],
        indirect=["ledger_at"],
    )
    @pytest.mark.parametrize("poisoned", [1, 2, 3])
    def test_an_outcome_that_can_t_be_written_takes_no_other_and_not_the_breaker_with_it(
        self, world: World, poisoned: int, damaged: bool
    ) -> None:
        """Each lane is written on its own then, and one of those that are written has the breaker's change."""
        later = RetryConfig.model_validate({"schedule": ["5s"] * 9})
        world.run(world.reload({"batched": destination("batched").model_copy(update={"retry": later})}))
        when = f"BEFORE UPDATE ON deliveries {{}} WHEN (NEW.event_id = {poisoned})"
        with world.beside(noticed=False) as db:
            if isinstance(db, SqliteDatabase):
                poison = "count(*) FROM broken" if damaged else "RAISE(ABORT, 'poisoned')"
                db.execute("CREATE TABLE broken (id)")
                db.execute(f"CREATE TRIGGER poison {when.format('')} BEGIN SELECT {poison}; END")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            else:
                body = "BEGIN RAISE 'poisoned'; END"
                db.execute(f"CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
                db.execute(f"CREATE TRIGGER poison {when.format('FOR EACH ROW')} EXECUTE FUNCTION poison()")
        if isinstance(world.location, Path):
            overwrite(world.location, pages_of(world.location, "broken"))
        world.mode["batched"] = "down"
        world.run(world.record([1, 2, 3]))
        world.wait(MOMENT_S)
        assert self.noted(world, poisoned) == [("pending", 0), ("retrying", 1), ("retrying", 1), "closed", 1]
        world.mode["batched"] = "up"
        world.wait(8)  # the others are tried again; then the breaker is as new
        assert self.noted(world, poisoned) == [("pending", 0), ("delivered", 2), ("delivered", 2), "closed", 0]
        with world.beside(noticed=False) as db:
            db.execute(Sql("DROP TRIGGER poison", postgresql="DROP TRIGGER poison ON deliveries"))
        world.wait(LONG_S)
        assert self.noted(world, poisoned) == [("delivered", 2)] * 3 + ["closed", 0]

    def noted(self, world: World, poisoned: int) -> list[Any]:
        """The deliveries, the poisoned one first, and the breaker's state and failures."""
        sql = """
            SELECT d.state, d.attempts FROM deliveries d JOIN destinations x ON x.id = d.destination_id
             WHERE x.name = 'batched' ORDER BY CASE d.event_id WHEN ? THEN 0 ELSE 1 END, d.event_id
        """
        breaker = "SELECT breaker, breaker_failures FROM destinations WHERE name = 'batched'"
        return [*world.monitor.execute(sql, [poisoned]), *world.monitor.execute(breaker).fetchone()]

    def test_one_that_fails_every_batch_leaves_it(self, world: World) -> None:
        """It is tried again alone: the others are delivered, and what is behind it in its lane fails no more."""
        settings = {
            "retry": RetryConfig.model_validate({"schedule": ["30ms"] * 1000}),
            "breaker": BreakerConfig.model_validate({"failures": 1000}),
        }
        world.run(world.reload({"batched": destination("batched").model_copy(update=settings)}))

        async def behave(name: str, some: Sequence[Message]) -> Sequence[Answer]:
            return [LATER if any(one.id.endswith("_2") for one in some) else ACCEPTED] * len(some)

        Sink.behave_batch = behave
        world.run(world.record([1, 1, 1]))
        for _ in range(20):
            world.run(world.record([2]))
            world.wait(0.05)
        world.wait(0.5)
        rows = world.monitor.execute(
            "SELECT event_id, state, attempts FROM deliveries d JOIN destinations x ON x.id = destination_id "
            "WHERE x.name = 'batched' ORDER BY event_id"
        ).fetchall()
        assert [state for _, state, _ in rows] == ["delivered", "retrying", "retrying", *["delivered"] * 20]
        assert rows[1][2] > 3
        assert rows[2][2] <= 3

    @pytest.mark.parametrize("recovers", [True, False])
    def test_one_that_leaves_its_batch_does_not_wait_for_more(self, world: World, recovers: bool) -> None:
        """Only the batch that others wait in does, and it is not held up."""
        settings = {
            "batch": Batch.model_validate({"max": MOST, "wait": "2s"}),
            "retry": RetryConfig.model_validate({"schedule": ["10ms"] * 1000}),
            "breaker": BreakerConfig.model_validate({"failures": 1000}),
        }
        world.run(world.reload({"batched": destination("batched").model_copy(update=settings)}))
        sent: dict[int, float] = {}
        fails = True

        async def behave(name: str, some: Sequence[Message]) -> Sequence[Answer]:
            ids = [int(one.id.rpartition("_")[2]) for one in some]
            sent.update(dict.fromkeys(ids, world.loop.time()))
            world.sent.update(("batched", one) for one in ids)
            return [LATER if fails and 4 not in ids else ACCEPTED] * len(some)

        Sink.behave_batch = behave
        world.run(world.record([1] * MOST))
        world.wait(MOMENT_S)
        fails = not recovers
        world.run(world.record([2]))
        opened_at = world.loop.time()
        world.wait(3)
        assert sent[4] - opened_at == pytest.approx(2, abs=MOMENT_S)
        if recovers:
            assert max(sent[one] for one in (1, 2, 3)) < opened_at + MOMENT_S
        else:
            assert world.sent["batched", 1] > 100

    def test_a_limited_rate_counts_events(self, world: World) -> None:
        slow = destination("batched").model_copy(update={"rate_limit": 2.0})
        world.run(world.reload({"batched": slow}))
        sizes = self.batches(world)
        world.run(world.record([1] * 8))
        world.wait(2.9)
        assert sizes == [2, 2, 2]
        world.wait(1)
        assert sizes == [2, 2, 2, 2]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, ALONE_AFTER + 1)), max_size=12))
def test_what_goes_out_together(lanes: list[tuple[int, int]]) -> None:
    """No delivery twice, none before an earlier one of its lane, and none that failed often with another."""
    event = Outgoing(1, "2026-11-24T10:00:00.000Z", "x", 1, None, {}, "{}", Summary(kind="push"))
    ready = [
        Ready(Queued(f"lane:{lane}", number, failures, failures, 0, None, Millis(0)), event)
        for number, (lane, failures) in enumerate(lanes)
    ]
    groups = together(ready)
    sent = [one for some in groups for one in some]
    assert len({one.queued.event_id for one in sent}) == len(sent)
    for some in groups:
        assert len(some) == 1 or all(one.queued.failures < ALONE_AFTER for one in some)
    for lane in {one.queued.lane for one in ready}:
        of_lane = [one for one in ready if one.queued.lane == lane]
        mine = [one for one in sent if one.queued.lane == lane]
        assert mine == of_lane[: len(mine)]
        assert mine
        assert len([some for some in groups if any(one.queued.lane == lane for one in some)]) == 1
