"""Batches in rounds: a timeout is a round's, and what was accepted before it, or before a stop, is known. In virtual
time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from reconciler.config.destinations import Destination
from reconciler.events.times import Millis
from reconciler.forwarding.kind import Connected, Kind, attempt_batch
from reconciler.forwarding.message import ACCEPTED, NOT_SENT, Answer, Message
from reconciler.forwarding.rounds import gathered, sent_in_parts
from tests.support.virtual import VirtualLoop

T = TypeVar("T")
FOREVER_S = 1e6


def messages(lanes: Sequence[int]) -> list[Message]:
    return [Message(f"evt_x_{n}", "1", {}, {}, b"{}", Millis(0), f"lane:{lane}") for n, lane in enumerate(lanes)]


def number(message: Message) -> int:
    return int(message.id.removeprefix("evt_x_"))


class Slow(Kind):
    """Each message takes 0.6 s, or as long as told, and is then accepted."""

    config = Destination
    address = "nowhere"

    def __init__(self, takes: dict[int, float]) -> None:
        self.takes = takes
        self.began: list[int] = []
        self.accepted: list[int] = []

    async def send(self, message: Message) -> Answer:
        self.began.append(number(message))
        await asyncio.sleep(self.takes.get(number(message), 0.6))
        self.accepted.append(number(message))
        return ACCEPTED


class SlowBroker(Connected[None]):
    """The same behind a connection."""

    config = Destination
    address = "nowhere"

    def __init__(self, takes: dict[int, float]) -> None:
        super().__init__(None)
        self.slow = Slow(takes)
        self.connections = 0

    async def connect(self) -> None:
        self.connections += 1

    async def publish(self, connection: None, message: Message) -> None:
        await self.slow.send(message)

    async def disconnect(self, connection: None) -> None: ...


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def run(loop: VirtualLoop, work: Coroutine[Any, Any, T]) -> T:
    return loop.run_until_complete(work)


async def sent(kind: Kind, some: Sequence[Message], **more: Any) -> list[Answer]:
    """Send as the outbox does, with a timeout of 1 s."""

    async def send(part: Sequence[Message]) -> Sequence[Answer]:
        return await attempt_batch(kind, part, timeout_s=1)

    return await sent_in_parts(some, send, target=kind.target, halve=kind.batch_fails_whole, **more)


async def cancelled_after(seconds: float, kind: Kind, some: Sequence[Message]) -> list[Answer]:
    sending = asyncio.create_task(sent(kind, some))
    await asyncio.sleep(seconds)
    sending.cancel()
    return await sending


def errors(answers: Sequence[Answer]) -> list[str | None]:
    return [answer.error_class for answer in answers]


def test_the_timeout_is_a_rounds(loop: VirtualLoop) -> None:
    kind = Slow({})
    assert errors(run(loop, sent(kind, messages([1] * 10)))) == [None] * 10
    assert loop.time() == pytest.approx(6)


def test_a_timeout_after_a_finished_round_takes_only_what_was_in_flight(loop: VirtualLoop) -> None:
    kind = Slow({3: FOREVER_S})
    answers = run(loop, sent(kind, messages([1] * 10)))
    assert errors(answers) == [None] * 3 + ["timeout"] + ["not_sent"] * 6
    assert answers[3].error == "no answer within 1 s"
    assert kind.began == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [Slow({3: 1.5}), SlowBroker({3: 1.5})])
def test_one_late_message_takes_no_other_of_its_round_with_it(loop: VirtualLoop, kind: Kind) -> None:
    answers = run(loop, sent(kind, messages([*range(10), *range(10)])))
    late = [n in (3, 13) for n in range(20)]
    assert errors(answers) == [("timeout" if n == 3 else "not_sent") if late[n] else None for n in range(20)]


def test_a_connection_on_which_nothing_was_answered_is_given_up(loop: VirtualLoop) -> None:
    kind = SlowBroker({2: FOREVER_S})
    assert errors(run(loop, sent(kind, messages([1, 1, 1])))) == [None, None, "timeout"]
    assert errors(run(loop, sent(kind, messages([1])))) == [None]
    assert kind.connections == 2


@pytest.mark.parametrize("kind", [Slow({1: 0.2}), SlowBroker({1: 0.2})])
def test_a_cancellation_keeps_what_was_answered(loop: VirtualLoop, kind: Kind) -> None:
    """Of the round that it ends, too. What was in flight counts as not sent: it is sent again after the start."""
    some = messages([1, 2, 1, 2])
    assert errors(run(loop, cancelled_after(0.9, kind, some))) == [None, None, "not_sent", "not_sent"]
    assert errors(run(loop, cancelled_after(0.3, kind, some))) == ["not_sent", None, "not_sent", "not_sent"]
    with pytest.raises(asyncio.CancelledError):
        run(loop, cancelled_after(0.1, kind, some))


def test_no_round_begins_when_the_outbox_stops(loop: VirtualLoop) -> None:
    kind = Slow({})
    answers = run(loop, sent(kind, messages([1] * 5), is_stopping=lambda: len(kind.accepted) == 2))
    assert answers == [ACCEPTED, ACCEPTED, NOT_SENT, NOT_SENT, NOT_SENT]
    assert kind.began == [0, 1]


def test_no_round_begins_late_but_halves_are_sent_to_their_end(loop: VirtualLoop) -> None:
    kind = Slow({})
    answers = run(loop, sent(kind, messages([1, 1, 1, 2]), is_late=lambda: True))
    assert answers == [ACCEPTED, NOT_SENT, NOT_SENT, ACCEPTED]

    async def send(part: Sequence[Message]) -> Sequence[Answer]:
        bad = any(number(one) == 2 for one in part)
        return [Answer("http_4xx", "no", status=422, rejected=True) if bad else ACCEPTED] * len(part)

    late = sent_in_parts(messages([1, 2, 3, 4]), send, target=kind.target, halve=True, is_late=lambda: True)
    assert [answer.accepted for answer in run(loop, late)] == [True, True, False, True]


def test_a_stop_that_follows_a_timeout_forgets_no_answer(loop: VirtualLoop) -> None:
    async def quick() -> str:
        return "accepted"

    async def slow_to_end() -> str:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            await asyncio.sleep(1)
        return "never"

    async def cancelled_twice() -> list[str]:
        task = asyncio.ensure_future(gathered([quick(), slow_to_end()], "unanswered"))
        for _ in range(2):
            await asyncio.sleep(0.1)
            task.cancel()
        return await task

    assert run(loop, cancelled_twice()) == ["accepted", "unanswered"]
