"""The supervisor: a part that fails starts again, says so once, and takes nothing else with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from reconciler import supervisor as module
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.listener import Listener
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.upkeep.failing_parts import Part, failing
from reconciler.supervisor import Supervisor, next_pause
from tests.support.waiting import until


class Failing:
    """Fails so many times, then runs for ever."""

    def __init__(self, times: int, raises: Callable[[], BaseException] = lambda: RuntimeError("broken")) -> None:
        self.left = times
        self.raises = raises
        self.runs = asyncio.Event()

    async def run(self) -> None:
        if self.left:
            self.left -= 1
            raise self.raises()
        self.runs.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def running(made: Supervisor, **parts: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    tasks = [made.start(name, run) for name, run in parts.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(one) for one in ended} == {asyncio.CancelledError}  # no other end was possible


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    return Supervisor(longest_pause_s=0.005, well_after_s=0.02)


def of(made: Supervisor, name: str) -> Part:
    return next(part for part in made.parts() if part.name == name)


async def until_well(made: Supervisor, name: str) -> None:
    await until(lambda: of(made, name).failing_since is None)


class Odd(Exception):
    """Can't be put into words."""

    def __str__(self) -> str:
        raise TypeError("not even that")


@pytest.mark.parametrize(
    ("raises", "told"),
    [
        (lambda: RuntimeError("broken"), "RuntimeError: broken"),
        (lambda: SystemExit(1), "SystemExit: 1"),  # a library that takes itself for the program
        (asyncio.CancelledError, "CancelledError"),
        (Odd, "Odd"),
        (lambda: ValueError("\ud800"), "ValueError: ?"),
        (MemoryError, "MemoryError"),
        (lambda: ValueError("x" * 1000), "ValueError: " + "x" * 488),
    ],
)
async def test_a_part_that_fails_starts_again(
    quick: Supervisor, raises: Callable[[], BaseException], told: str
) -> None:
    one, other = Failing(5, raises), Failing(0)
    async with running(quick, one=one.run, other=other.run):
        await one.runs.wait()
        assert of(quick, "one").restarts == 5
        assert of(quick, "one").error == told
        await until_well(quick, "one")
        assert of(quick, "other") == Part("other", None, 0, "")


async def test_a_part_that_ends_by_itself_starts_again(quick: Supervisor) -> None:
    again = asyncio.Event()
    runs = []

    async def ends() -> None:
        runs.append(1)
        if len(runs) == 3:
            again.set()

    async with running(quick, one=ends):
        await again.wait()
        assert "ended by itself" in of(quick, "one").error


async def test_a_part_is_cancelled_when_the_service_ends(quick: Supervisor) -> None:
    begun, cleaned = asyncio.Event(), []

    async def part() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    async with running(quick, one=part):
        await begun.wait()
    assert cleaned == [1]


async def test_the_traceback_is_logged_once(quick: Supervisor) -> None:
    one = Failing(4)
    with capture_logs() as logs:
        async with running(quick, one=one.run):
            await one.runs.wait()
            await until_well(quick, "one")
    said = [line for line in logs if line["event"] == "part restarted"]
    assert [line["exc_info"] is not None for line in said] == [True, False, False, False]
    assert [line["part"] for line in said] == ["one"] * 4
    assert logs[-1]["event"] == "part recovered"


async def test_what_the_writer_has_explained_needs_no_traceback(quick: Supervisor) -> None:
    one = Failing(2, lambda: LedgerUnavailable("the disk is full"))
    with capture_logs() as logs:
        async with running(quick, one=one.run):
            await one.runs.wait()
    assert [line["exc_info"] for line in logs if line["event"] == "part restarted"] == [None, None]


async def test_what_ends_is_tried_until_it_ended_well(quick: Supervisor) -> None:
    left = [1, 2, 3]

    async def part() -> None:
        if left:
            raise RuntimeError(f"broken {left.pop()}")

    await quick.until_done("one", part)
    assert of(quick, "one") == Part("one", None, 3, "RuntimeError: broken 1")


async def test_what_stops_is_tried_once_more_and_no_more(quick: Supervisor) -> None:
    stopping, runs = asyncio.Event(), []

    async def part() -> None:
        runs.append(1)
        raise RuntimeError("broken")

    slow = Supervisor(longest_pause_s=1000)
    slow._of("one").pause_s = 1000  # it has failed often: nobody waits for its next turn
    task = slow.until_done("one", part, stopping=stopping)
    await until(lambda: runs)
    stopping.set()
    await task
    assert len(runs) == 2
    assert of(slow, "one").restarts == 1


async def test_what_ends_one_day_is_well_when_it_runs(quick: Supervisor) -> None:
    one = Failing(3)
    task = quick.until_done("one", one.run)
    await one.runs.wait()
    await until_well(quick, "one")
    assert of(quick, "one").restarts == 3
    task.cancel()


async def test_a_traceback_is_logged_once_however_often_the_part_was_well(quick: Supervisor) -> None:
    one = Failing(1)
    with capture_logs() as logs:
        for _ in range(3):
            one.left = 1
            await quick.turn("one", one.run)
            quick.well("one")
    said = [line["exc_info"] is not None for line in logs if line["log_level"] == "error"]
    assert said == [True, False, False]


async def test_a_part_that_is_forgotten_is_none_any_more(quick: Supervisor, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(connect(path)) as db, closing(connect(path, readonly=True)) as reader:
        ledger = Ledger(Writer(db), reader)
        late, fails = asyncio.Event(), asyncio.Event()

        async def turn() -> None:
            late.set()
            await fails.wait()
            raise RuntimeError("broken")

        async with running(quick, reporting=lambda: quick.report(ledger)):
            quick.note("one", "broken")
            await until(lambda: failing(reader))
            under_way = asyncio.create_task(quick.turn("one", turn))
            await late.wait()
            quick.forget("one")
            await until(lambda: not failing(reader))
            fails.set()
            await under_way  # its failure is nobody's
            assert [part.name for part in quick.parts()] == ["reporting"]
        await ledger.close()


async def test_a_turn_that_fails_is_noted_and_the_next_is_not_ours_to_call(quick: Supervisor) -> None:
    one = Failing(1)
    await quick.turn("one", one.run)
    assert of(quick, "one").failing_since is not None

    async def well() -> None:
        pass

    await quick.turn("one", well)
    assert of(quick, "one") == Part("one", None, 0, "RuntimeError: broken")


async def test_the_ledger_s_account_follows(quick: Supervisor, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(connect(path)) as db, closing(connect(path, readonly=True)) as reader:
        ledger = Ledger(Writer(db), reader)
        failed = asyncio.Event()

        async def part() -> None:
            failed.set()
            raise RuntimeError("broken")

        async with running(quick, one=part, reporting=lambda: quick.report(ledger)):
            await failed.wait()
            await until(lambda: failing(reader))
            [found] = failing(reader)
            assert (found.name, found.error) == ("one", "RuntimeError: broken")
            quick.well("one")
        await ledger.close()


async def test_the_account_waits_for_a_ledger_that_can_t_be_written(
    quick: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NOTE_PAUSE_S", 0.001)
    path = tmp_path / "ledger.db"
    with closing(connect(path)) as db, closing(connect(path, readonly=True)) as reader:
        noticed: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        class Noticing(Listener):
            def trouble(self, reason: str | None) -> None:
                if not noticed.done():
                    noticed.set_result(reason)

        ledger = Ledger(Writer(db, listener=Noticing()), reader)
        path.rename(tmp_path / "aside")
        async with running(quick, reporting=lambda: quick.report(ledger)):
            quick.note("ledger", "it is gone")
            await noticed
            (tmp_path / "aside").rename(path)
            await until(lambda: failing(reader))
            assert of(quick, "reporting").restarts == 0
        await ledger.close()


@given(st.floats(0.01, 10), st.floats(10, 1000), st.integers(1, 40))
def test_pauses_grow_up_to_the_longest(first: float, longest: float, failures: int) -> None:
    pauses, pause = [], 0.0
    for _ in range(failures):
        pause = next_pause(pause, first=first, longest=longest)
        pauses.append(pause)
    assert pauses[0] == first
    assert all(a < b or a == b == longest for a, b in pairwise(pauses))
    assert max(pauses) <= longest
