"""The intake's file becomes small again after a burst, whoever appends, reads or is killed meanwhile."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.intake import shrinking
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.ledger.intake.file import PAGE_SIZE, WAL_LIMIT_BYTES
from reconciler.ledger.intake.reader import SqliteReader
from tests.reconciler.ledger.test_intake import SQLITE, append, bodies, trim_all, webhook

BURST = 1500
BIG = "x" * 5000
"""One fills a page."""
SMALL_BYTES = 40 * PAGE_SIZE


SHRINK = """
import sys
from pathlib import Path
from reconciler.ledger.intake import shrinking
from reconciler.ledger.intake.reader import SqliteReader

shrinking.SPARE_PAGES, shrinking.STEP_PAGES = 20, 10
intake = SqliteReader(Path(sys.argv[1]))
while intake.give_back():
    intake.checkpoint()
    print("step", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "intake"


@pytest.fixture(autouse=True)
def spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinking, "SPARE_PAGES", 20)


async def burst(path: Path) -> None:
    await append(SQLITE, path, *(f"{n}:{BIG}" for n in range(BURST)))


def numbers(path: Path) -> list[str]:
    with closing(SqliteReader(path)) as intake:
        return [body.partition(":")[0] for body in bodies(intake.read(after=0, limit=10_000))]


def asked(path: Path, question: str) -> object:
    with closing(sqlite3.connect(path)) as conn:
        return conn.execute(f"PRAGMA {question}").fetchone()[0]


def size(path: Path) -> int:
    return path.stat().st_size


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def killed_after(path: Path, steps: int) -> None:
    with subprocess.Popen([sys.executable, "-c", SHRINK, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(steps):
            assert process.stdout.readline() == b"step\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL


def shrink(intake: SqliteReader) -> int:
    """Returns in how many steps."""
    steps = 1
    while intake.give_back():
        steps += 1
    intake.checkpoint()
    return steps


def without_auto_vacuum(path: Path) -> None:
    """As an earlier version made it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA auto_vacuum = NONE")
        conn.execute("VACUUM")
    assert asked(path, "auto_vacuum") == 0


async def test_it_is_small_again_after_a_burst(path: Path) -> None:
    await burst(path)
    large = size(path)
    assert large > BURST * PAGE_SIZE
    with closing(SqliteReader(path)) as intake:
        trim_all(intake, intake.last_position())
        intake.checkpoint()
        assert size(path) == large
        assert shrink(intake) > 10  # in steps: whoever appends waits for one of them
        assert size(path) < SMALL_BYTES
        assert size(log_of(path)) <= WAL_LIMIT_BYTES + PAGE_SIZE
        assert not intake.give_back()


async def test_a_step_gives_back_a_limited_number_of_pages(path: Path) -> None:
    await burst(path)
    with closing(SqliteReader(path)) as intake:
        trim_all(intake, intake.last_position())
        before = asked(path, "page_count")
        assert intake.give_back()
        after = asked(path, "page_count")
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert before - after == shrinking.STEP_PAGES


async def test_nothing_is_moved_while_most_of_it_is_used(path: Path) -> None:
    await burst(path)
    with closing(SqliteReader(path)) as intake:
        trim_all(intake, intake.last_position() * 2 // 5)
        intake.checkpoint()
        large = size(path)
        assert shrink(intake) == 1
        assert size(path) == large
        trim_all(intake, intake.last_position() * 9 // 10)
        assert shrink(intake) > 5
        assert size(path) < large // 2
    assert numbers(path) == [f"{n}" for n in range(BURST * 9 // 10, BURST)]
    assert asked(path, "integrity_check") == "ok"


async def test_webhooks_are_appended_while_it_shrinks(path: Path) -> None:
    await burst(path)
    appender = SqliteAppender(path)
    steps = appended = 0
    with closing(SqliteReader(path)) as intake:
        trim_all(intake, intake.last_position())
        more = True
        while more:  # an append begins during each step
            step = asyncio.create_task(asyncio.to_thread(intake.give_back))
            await asyncio.gather(step, *(appender.append(webhook(f"{appended + n}:")) for n in range(3)))
            appended += 3
            steps += 1
            more = step.result()
        intake.checkpoint()
        assert steps > 10
        assert size(path) < SMALL_BYTES
    await appender.append(webhook(f"{appended}:"))
    await appender.close()
    assert numbers(path) == [f"{n}" for n in range(appended + 1)]
    assert asked(path, "integrity_check") == "ok"


async def test_a_snapshot_delays_the_end_and_nothing_else(path: Path) -> None:
    """Whoever reads sees what was there when it began. The file shrinks once that has ended."""
    await burst(path)
    large = size(path)
    with closing(SqliteReader(path)) as intake, closing(sqlite3.connect(path, isolation_level=None)) as snapshot:
        snapshot.execute("BEGIN")
        snapshot.execute("SELECT count(*) FROM webhooks").fetchone()
        trim_all(intake, intake.last_position())
        shrink(intake)
        await append(SQLITE, path, "one:")
        assert size(path) == large
        assert snapshot.execute("SELECT count(*), sum(length(body)) > 5000 FROM webhooks").fetchone() == (BURST, 1)
        snapshot.execute("COMMIT")
        intake.checkpoint()
        assert size(path) < SMALL_BYTES
    assert numbers(path) == ["one"]


async def test_a_kill_while_it_shrinks(path: Path) -> None:
    await burst(path)
    with closing(SqliteReader(path)) as intake:
        trim_all(intake, intake.last_position() - 100)
    for steps in (1, 4, 9):
        killed_after(path, steps)
        assert numbers(path) == [f"{n}" for n in range(BURST - 100, BURST)]
        assert asked(path, "integrity_check") == "ok"
    await append(SQLITE, path, "more:")
    with closing(SqliteReader(path)) as intake:
        assert shrink(intake) > 1
    assert numbers(path)[-2:] == [f"{BURST - 1}", "more"]


async def test_one_of_an_earlier_version_shrinks_once_little_of_it_is_used(path: Path) -> None:
    await burst(path)
    without_auto_vacuum(path)
    large = size(path)
    appender = SqliteAppender(path)
    await appender.append(webhook("a:"))
    with closing(SqliteReader(path)) as intake:
        ident, last = intake.intake_id, intake.last_position()
        trim_all(intake, last - 100)
        assert shrink(intake) == 1
        assert size(path) >= large
        trim_all(intake, last - 10)
        step = asyncio.create_task(asyncio.to_thread(shrink, intake))
        await asyncio.gather(step, *(appender.append(webhook(f"{n}:")) for n in range(3)))
        shrink(intake)  # an append may have kept the log in use
        assert size(path) < SMALL_BYTES
    await appender.append(webhook("b:"))
    await appender.close()
    assert numbers(path) == [*(f"{n}" for n in range(BURST - 9, BURST)), "a", "0", "1", "2", "b"]
    with closing(SqliteReader(path)) as intake:
        assert (intake.intake_id, intake.last_position()) == (ident, last + 4)
        assert not intake.is_replaced()
    assert asked(path, "auto_vacuum") == 2
    assert asked(path, "integrity_check") == "ok"
