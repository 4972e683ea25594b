"""A kill between any two statements, before or after any commit: nothing is recorded twice, nothing is skipped."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.intake.reader import SqliteReader
from reconciler.ledger.storage.any_text import AnyText
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.recorder import recorder
from tests.reconciler.recorder.world import append, kept, life, make, numbered, poison, record_all, titles
from tests.support.effort import tries

TEXTS: list[int | str] = [1, 2, 3, "poison", 4, 5, 6, 7]


class Killed(BaseException):
    """The process is gone: it does nothing more."""


class Fate:
    """Kills at a statement of the ledger's connections: before it, or after it."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.after = False
        self.killed = asyncio.Event()

    def meets(self, statement: Any) -> Any:
        """A statement of a connection, in reach of this."""

        def run(conn: sqlite3.Connection, *arguments: Any) -> Any:
            if self.left is None:
                return statement(conn, *arguments)
            if self.left < 0:
                raise Killed
            self.left -= 1
            done = statement(conn, *arguments) if self.left >= 0 or self.after else None
            if self.left < 0:
                self.loop.call_soon_threadsafe(self.killed.set)
                raise Killed
            return done

        return run

    def strike(self, statements: int, *, after: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.killed = asyncio.Event()
        self.left, self.after = statements, after


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """What was acknowledged, and not yet recorded."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        make(path)
        poison(path)
        asyncio.run(append(path, *numbered(TEXTS)))
        yield Path(folder)


@settings(max_examples=tries(10), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 150), st.booleans()), min_size=1, max_size=4))
@example([(n, after) for n in (2, 30, 60) for after in (False, True)])
@example([(6, False), (31, False)])  # twice before an empty ledger has recorded more than one
def test_a_kill_anywhere(template: Path, kills: list[tuple[int, bool]]) -> None:
    # The log is captured because writing tracebacks takes longer than everything else here.
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs():
        shutil.copytree(template, folder, dirs_exist_ok=True)
        path = Path(folder) / "ledger.db"
        fate = Fate()
        patch.setattr(recorder, "BATCH", 3)
        patch.setattr(AnyText, "execute", fate.meets(AnyText.execute))
        patch.setattr(AnyText, "executemany", fate.meets(AnyText.executemany))
        for statements, after in kills:
            asyncio.run(one_life(path, fate, statements, after))
            trim(path)
        asyncio.run(record_all(path))
        expected = [f"{one}" for one in TEXTS if one != "poison"]
        assert titles(path) == expected
        assert [title for title, *_ in kept(path)] == ["poison"]


async def one_life(path: Path, fate: Fate, statements: int, after: bool) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # a dead process says nothing
    async with life(path) as made:
        fate.strike(statements, after=after)
        recorded = asyncio.create_task(made.recorder.drain(60))
        killed = asyncio.create_task(fate.killed.wait())
        ends = {recorded, killed, made.running}
        await asyncio.wait(ends, timeout=20, return_when=asyncio.FIRST_COMPLETED)  # a kill at any time will do
        recorded.cancel()
        killed.cancel()
        await made.kill()
        made.ledger._writer._disk.shutdown()
        # As the kernel does. Closing is not enough: a cursor that a traceback keeps would keep the connection's lock.
        for dead in (made.db, made.reader):
            assert isinstance(dead, SqliteDatabase)
            dead.conn.rollback()
        fate.left = None


def trim(path: Path) -> None:
    """What the ledger says is recorded is removed from the intake."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT value FROM meta WHERE name = 'intake'").fetchone()
    if found is not None:
        with closing(SqliteReader(intake_path(path))) as intake:
            intake.trim(through=int(found[0].partition(" ")[2]))
