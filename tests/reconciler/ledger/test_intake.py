"""What every intake holds to: nothing that was acknowledged is lost or moved, and no position is used twice."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.intake import postgresql_reader, reader, rows
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.ledger.intake.file import look_into
from reconciler.ledger.intake.intake import Appender, Reader, ReceivedWebhook, StoredWebhook
from reconciler.ledger.intake.postgresql import PostgresAppender
from reconciler.location import Location
from tests.support.effort import tries
from tests.support.ledgers import ledger_location

NOW = times.from_iso("2026-11-24T12:00:00.123Z")


class Kind(msgspec.Struct, frozen=True):
    """An implementation. Whatever opens the same place has the same intake."""

    name: str
    appender: Callable[[Any], Appender]
    reader: Callable[[Any], Reader]
    reading: ModuleType
    trimming: ModuleType


SQLITE = Kind("sqlite", SqliteAppender, reader.SqliteReader, rows, reader)
KINDS = [
    SQLITE,
    pytest.param(
        Kind("postgresql", PostgresAppender, postgresql_reader.PostgresReader, postgresql_reader, postgresql_reader),
        marks=pytest.mark.postgresql,
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def path(kind: Kind, tmp_path: Path) -> Iterator[Location]:
    with ledger_location(kind.name, tmp_path) as location:
        yield location


def webhook(text: str | bytes = "one", *, at: int = 0, hook: str = "default") -> ReceivedWebhook:
    body = text if isinstance(text, bytes) else text.encode()
    return ReceivedWebhook(hook, Millis(NOW + at), {"X-Gitlab-Event": "Push Hook"}, body)


async def append(kind: Kind, path: Location, *texts: str | bytes) -> None:
    intake = kind.appender(path)
    try:
        await asyncio.gather(*(intake.append(webhook(text)) for text in texts))
    finally:
        await intake.close()


def read(kind: Kind, path: Location, *, after: int = 0, limit: int = 1_000_000) -> list[StoredWebhook]:
    with closing(kind.reader(path)) as intake:
        return list(intake.read(after=after, limit=limit))


def bodies(found: list[StoredWebhook]) -> list[str]:
    return [one.webhook.body.decode() for one in found]


def trim_all(intake: Reader, through: int) -> int:
    """Returns in how many steps."""
    intake.openings_seen()
    steps = 1
    while intake.trim(through=through):
        steps += 1
    return steps


async def test_they_are_read_in_the_order_of_their_arrival(kind: Kind, path: Location) -> None:
    texts = [f"{n}" for n in range(1_500)]  # more than one commit takes
    await append(kind, path, *texts)
    found = read(kind, path)
    assert bodies(found) == texts
    positions = [one.position for one in found]
    assert positions == sorted(set(positions))


async def test_a_webhook_comes_back_as_it_came(kind: Kind, path: Location) -> None:
    came = [
        ReceivedWebhook(
            "größer",
            Millis(NOW + 1),
            {"X-Gitlab-Event": "ÿ\x01 \U0001f980", "Idempotency-Key": ""},
            bytes(range(256)),
        ),
        ReceivedWebhook("default", Millis(0), {}, b"{" + b"x" * 300_000 + b"\xff}"),
    ]
    intake = kind.appender(path)
    for one in came:
        await intake.append(one)
    await intake.close()
    assert [one.webhook for one in read(kind, path)] == came


async def test_a_batch_has_a_limit_and_an_end_in_bytes(
    kind: Kind, path: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind.reading, "READ_BYTES", 1000)
    await append(kind, path, "a" * 5000, "b" * 400, "c" * 400, "d" * 400, "e")
    with closing(kind.reader(path)) as intake:
        batches, after = [], 0
        while some := intake.read(after=after, limit=10):
            batches.append("".join(one.webhook.body.decode()[0] for one in some))
            after = some[-1].position
        assert batches == ["a", "bcd", "e"]
        assert bodies(list(intake.read(after=after - 1, limit=1))) == ["e"]
        first = intake.read(after=0, limit=1)[0].position
        assert bodies(list(intake.read(after=first, limit=2))) == ["b" * 400, "c" * 400]


async def test_nothing_is_read_of_an_empty_one(kind: Kind, path: Location) -> None:
    with closing(kind.reader(path)) as intake:
        assert list(intake.read(after=0, limit=10)) == []
        assert intake.last_position() == 0
        assert not intake.trim(through=100)


async def test_it_is_trimmed_in_steps(kind: Kind, path: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind.trimming, "TRIM", 10)
    await append(kind, path, *(f"{n}" for n in range(35)))
    middle = read(kind, path)[24].position
    with closing(kind.reader(path)) as intake:
        assert trim_all(intake, middle) == 3
        assert bodies(list(intake.read(after=0, limit=100))) == [f"{n}" for n in range(25, 35)]
        assert not intake.trim(through=middle)


async def test_a_step_of_trimming_has_a_limit_in_bytes(
    kind: Kind, path: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind.trimming, "TRIM_BYTES", 1000)
    await append(kind, path, *("x" * 400 for _ in range(7)), "y" * 5000)
    with closing(kind.reader(path)) as intake:
        last, left = intake.last_position(), []
        intake.openings_seen()
        while intake.trim(through=last):
            left.append(len(intake.read(after=0, limit=100)))
        assert left[:3] == [5, 2, 0]


async def test_what_came_after_an_opening_is_kept_until_the_recorder_has_looked(tmp_path: Path) -> None:
    """In an older copy of the intake's file, positions up to which the recorder came are used again."""
    kind, path = SQLITE, tmp_path / "intake"
    await append(kind, path, "one", "two")
    with closing(kind.reader(path)) as intake:
        assert [one.after for one in intake.openings()] == [0]
        last = intake.last_position()
        trim_all(intake, last)
        assert intake.openings() == []
        await append(kind, path, "three")
        await append(kind, path, "four")
        opened = intake.openings()
        assert [one.after for one in opened] == [last, last + 1]
        assert len({one.id for one in opened}) == 2
        assert not intake.trim(through=last + 5)
        assert bodies(list(intake.read(after=0, limit=5))) == ["three", "four"]
        trim_all(intake, last + 1)
        assert bodies(list(intake.read(after=0, limit=5))) == ["four"]


async def test_no_position_is_used_twice(kind: Kind, path: Location) -> None:
    """Even after everything was removed, and the intake was opened again by both sides."""
    await append(kind, path, "one", "two")
    with closing(kind.reader(path)) as intake:
        last, ident = intake.last_position(), intake.intake_id
        trim_all(intake, last)
    with closing(kind.reader(path)) as intake:
        assert (intake.last_position(), intake.intake_id) == (last, ident)
    await append(kind, path, "three")
    [found] = read(kind, path)
    assert found.position > last
    with closing(kind.reader(path)) as intake:
        assert (intake.last_position(), intake.intake_id) == (found.position, ident)


async def test_two_append_at_once(kind: Kind, path: Location) -> None:
    one, two = kind.appender(path), kind.appender(path)
    await asyncio.gather(*(each.append(webhook(f"{n}")) for n in range(300) for each in (one, two)))
    await asyncio.gather(one.close(), two.close())
    found = read(kind, path)
    assert sorted(bodies(found), key=int) == [f"{n}" for n in range(300) for _ in range(2)]
    assert len({stored.position for stored in found}) == 600


async def test_what_is_done_is_on_disk(kind: Kind, path: Location) -> None:
    """Another connection sees it, before the appender is closed."""
    intake = kind.appender(path)
    with closing(kind.reader(path)) as seen:
        for n in range(20):
            await intake.append(webhook(f"{n}"))
            assert len(seen.read(after=0, limit=100)) == n + 1
    await intake.close()


async def test_what_is_submitted_is_on_disk_when_it_is_closed(kind: Kind, path: Location) -> None:
    intake = kind.appender(path)
    futures = [asyncio.ensure_future(intake.append(webhook(f"{n}"))) for n in range(1_000)]
    assert intake.waiting == 1_000
    await intake.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert intake.waiting == 0
    assert len(read(kind, path)) == 1_000


async def test_one_whose_request_has_ended_takes_no_other_with_it(kind: Kind, path: Location) -> None:
    intake = kind.appender(path)
    first = asyncio.ensure_future(intake.append(webhook("first")))
    second = asyncio.ensure_future(intake.append(webhook("second")))
    first.cancel()
    await second
    await intake.close()
    assert "second" in bodies(read(kind, path))


async def test_looking_whether_it_can_be_written_appends_nothing(kind: Kind, path: Location) -> None:
    intake = kind.appender(path)
    await intake.check_writable()
    await intake.close()
    with closing(kind.reader(path)) as seen:
        assert (list(seen.read(after=0, limit=10)), seen.last_position()) == ([], 0)


class Machine(RuleBasedStateMachine):
    """An intake against a list."""

    kind: Kind

    def __init__(self) -> None:
        super().__init__()
        self.place = ExitStack()
        folder = Path(self.place.enter_context(TemporaryDirectory()))
        self.path = self.place.enter_context(ledger_location(self.kind.name, folder))
        self.loop = asyncio.new_event_loop()
        self.here: list[StoredWebhook] = []
        self.last = 0
        self.open()
        self.ident = self.reader.intake_id

    def open(self) -> None:
        async def made() -> Appender:
            return self.kind.appender(self.path)

        self.appender = self.loop.run_until_complete(made())
        self.reader = self.kind.reader(self.path)

    def close(self) -> None:
        self.reader.close()
        self.loop.run_until_complete(self.appender.close())

    def teardown(self) -> None:
        self.close()
        self.loop.close()
        self.place.close()

    @rule(some=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=5))
    def append(self, some: list[bytes]) -> None:
        async def go() -> None:
            await asyncio.gather(*(self.appender.append(webhook(body)) for body in some))

        self.loop.run_until_complete(go())
        added = self.reader.read(after=self.last, limit=100)
        assert [one.webhook.body for one in added] == some
        self.here += added
        self.last = added[-1].position

    @rule(back=st.integers(0, 30), limit=st.integers(1, 5))
    def read(self, back: int, limit: int) -> None:
        after = max(0, self.last - back)
        expected = [one for one in self.here if one.position > after][:limit]
        assert list(self.reader.read(after=after, limit=limit)) == expected

    @rule(back=st.integers(0, 10))
    def trim(self, back: int) -> None:
        trim_all(self.reader, self.last - back)
        self.here = [one for one in self.here if one.position > self.last - back]

    @rule()
    def open_again(self) -> None:
        self.close()
        self.open()

    @precondition(lambda self: self.here)
    @rule()
    def trim_everything_and_open_again(self) -> None:
        self.trim(0)
        self.open_again()

    @invariant()
    def it_knows_its_end(self) -> None:
        assert (self.reader.last_position(), self.reader.intake_id) == (self.last, self.ident)
        positions = [one.position for one in self.here]
        assert positions == sorted(set(positions))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_any_history(kind: Kind) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class OfKind(Machine):
        pass

    OfKind.kind = kind
    run_state_machine_as_test(
        OfKind, settings=settings(max_examples=tries(15), stateful_step_count=20, deadline=None)
    )


async def test_bodies_of_any_size(kind: Kind, path: Location) -> None:
    """Many small ones, and some that are as large as GitLab's largest."""
    small, large = [b"%d" % n for n in range(10_000)], [b"%d" % n + b"x\0\xff" * 8_333_333 for n in range(2)]
    intake = kind.appender(path)
    await asyncio.gather(*(intake.append(webhook(body)) for body in [*small, *large]))
    await intake.close()
    found = read(kind, path, limit=10_000)
    assert [one.webhook.body for one in found] == small
    with closing(kind.reader(path)) as intake_reader:
        for body in large:
            [one] = found = list(intake_reader.read(after=found[-1].position, limit=256))
            assert one.webhook.body == body
        assert intake_reader.read(after=one.position, limit=256) == []


def test_there_is_nothing_to_look_into(tmp_path: Path) -> None:
    path = tmp_path / "intake"
    assert look_into(path) is None
    path.touch()
    assert look_into(path) is None
    with closing(reader.SqliteReader(path)) as made:
        found = look_into(path)
        assert found is not None
        with closing(found):
            assert found.id == made.intake_id
            with pytest.raises(sqlite3.OperationalError):
                found.conn.execute("DELETE FROM webhooks")
