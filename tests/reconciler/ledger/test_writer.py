"""The one writer: what it acknowledges is on disk, at the ledger's path; one change's trouble is that change's."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from reconciler.events import times
from reconciler.ledger.errors import ChangeFailed, LedgerDamaged, LedgerUnavailable
from reconciler.ledger.listener import Listener
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect, touch, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase
from tests.support.filled import made


class Heard(Listener):
    """Keeps the troubles that the ledger reports."""

    def __init__(self) -> None:
        self.troubles: list[str | None] = []

    def trouble(self, reason: str | None) -> None:
        self.troubles.append(reason)


class Open:
    """A ledger, and its writer."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.db"
        self.db = connect(self.path)
        self.writer = Writer(self.db)

    def values(self) -> dict[str, str]:
        """What is in the file at the ledger's path, for who opens it anew."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as other:
            return dict(other.execute("SELECT name, value FROM meta WHERE name LIKE 'x%'"))


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    one = Open(tmp_path)
    yield one
    await one.writer.close()
    one.db.close()


def put(name: str) -> Any:
    return lambda db: db.execute("INSERT INTO meta VALUES (?, '')", (name,))


def bug(_: Database) -> None:
    raise KeyError("nope")


async def test_a_bug_is_no_trouble_of_the_ledger(opened: Open) -> None:
    with capture_logs() as logs, pytest.raises(ChangeFailed, match="KeyError: 'nope'") as raised:
        await opened.writer.run(bug)
    assert isinstance(raised.value.__cause__, KeyError)
    assert [line["event"] for line in logs] == ["a change of the ledger failed"]
    assert isinstance(logs[0]["exc_info"], KeyError)  # with its traceback
    await opened.writer.run(touch)


async def test_a_bug_takes_no_other_change_of_its_batch_with_it(opened: Open) -> None:
    wanted = [opened.writer.run(change) for change in (put("x1"), bug, put("x2"), bug, put("x3"))]
    came = await asyncio.gather(*wanted, return_exceptions=True)
    assert [isinstance(one, ChangeFailed) for one in came] == [False, True, False, True, False]
    assert opened.values().keys() == {"x1", "x2", "x3"}


async def test_the_traceback_is_logged_once_a_kind(opened: Open) -> None:
    def other(_: Database) -> None:
        raise KeyError("another place")

    with capture_logs() as logs:
        for change in (bug, bug, other, bug, other):
            with pytest.raises(ChangeFailed):
                await opened.writer.run(change)
    assert [line["exc_info"] is not None for line in logs] == [True, False, True, False, False]


async def test_a_statement_that_is_wrong_is_a_bug_too(opened: Open) -> None:
    for sql in ("SELECT * FROM nowhere", "INSERT INTO meta VALUES ('ledger_id', '')", "SELEC"):
        with pytest.raises(ChangeFailed):
            await opened.writer.run(lambda db, sql=sql: db.execute(sql))  # type: ignore[misc]


async def test_damage_is_met_by_who_reads_it_alone(opened: Open) -> None:
    await opened.writer.run(lambda db: db.execute("INSERT INTO search (rowid, kind) VALUES (1, 'push')"))
    with closing(sqlite3.connect(opened.path, isolation_level=None)) as other:
        other.execute("DELETE FROM search_data")
    heard = opened.writer.listener = Heard()
    search = "SELECT rowid FROM search WHERE search MATCH 'push'"
    damaged = opened.writer.run(lambda db: db.execute(search).fetchall())
    sound = opened.writer.run(put("x1"))
    with pytest.raises(LedgerDamaged, match="damaged"):
        await damaged
    await sound
    assert heard.troubles == []


async def test_a_listener_s_bug_stops_neither_the_writer_nor_other_listeners(opened: Open) -> None:
    ids = await opened.writer.run(
        lambda db: destinations.sync(db, [DestinationSpec("a", "none", "now")], now=times.now())
    )
    opened.writer.routes = [Route(ids["a"], "none", lambda _: True)]
    heard, told = list[Any](), list[Any]()

    class Deaf(Listener):
        def opened(self, deliveries: object) -> None:
            told.append(deliveries)
            raise RuntimeError("deaf")

        def committed(self, done: object) -> None:
            heard.append(done)

    opened.writer.listener = Deaf()
    await opened.writer.record(list(made(1)))
    await opened.writer.record(list(made(1, first=1)))
    await opened.writer.run(touch)
    assert (len(told), len(heard)) == (2, 2)


async def test_nothing_is_acknowledged_while_the_file_is_away(opened: Open) -> None:
    heard = opened.writer.listener = Heard()
    await opened.writer.run(put("x1"))
    aside = opened.path.with_name("aside")
    with capture_logs() as logs:
        opened.path.rename(aside)
        for _ in range(3):
            with pytest.raises(LedgerUnavailable, match="was moved or removed"):
                await opened.writer.run(put("x-lost"))
        aside.rename(opened.path)  # the very same file
        await opened.writer.run(put("x2"))
    assert opened.values().keys() == {"x1", "x2"}
    assert [line["event"] for line in logs] == ["the ledger can't be written", "the ledger can be written again"]
    assert [None if one is None else "moved" in one for one in heard.troubles] == [True, None]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["removed", "replaced by a copy"])
async def test_each_file_is_watched(opened: Open, suffix: str, how: str) -> None:
    await opened.writer.run(put("x1"))
    file = opened.path.with_name(opened.path.name + suffix)
    copy = file.with_name("copy")
    shutil.copyfile(file, copy)
    file.unlink()
    if how != "removed":
        copy.rename(file)
    with pytest.raises(LedgerUnavailable, match="nothing is written to it"):
        await opened.writer.run(put("x-lost"))
    with pytest.raises(LedgerUnavailable, match="nothing is written to it"), transaction(opened.db) as db:
        put("x-lost")(db)


async def test_what_the_wal_held_is_in_the_ledger_after_the_stop_that_is_advised(tmp_path: Path) -> None:
    one = Open(tmp_path)
    await one.writer.run(put("x1"))
    one.path.with_name("ledger.db-wal").unlink()
    with pytest.raises(LedgerUnavailable, match="stop the service"):
        await one.writer.run(put("x2"))
    await one.writer.close()
    one.db.close()
    assert one.values().keys() == {"x1"}


async def test_a_file_that_goes_away_during_the_commit_is_noticed_before_the_answer(opened: Open) -> None:
    """The commit itself goes well: it is the file that is no longer there."""

    def away(sql: str) -> None:
        if sql == "COMMIT":
            opened.path.rename(opened.path.with_name("aside"))

    def and_away(db: Database) -> None:
        put("x1")(db)
        assert isinstance(db, SqliteDatabase)
        db.conn.set_trace_callback(away)

    with pytest.raises(LedgerUnavailable, match="was moved or removed"):
        await opened.writer.run(and_away)


async def test_a_folder_that_is_moved_with_all_in_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    one = Open(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(LedgerUnavailable, match="was moved or removed"):
        await one.writer.run(put("x1"))
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    await one.writer.run(put("x1"))
    await one.writer.close()
    one.db.close()


async def test_a_relative_path_is_meant_as_it_was_when_the_ledger_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    one = Open(Path())
    monkeypatch.chdir(tmp_path)
    await one.writer.run(put("x1"))
    await one.writer.close()
    one.db.close()


def test_a_transaction_s_trouble_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(connect(path, patience_s=0)) as db, closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable, match="another process holds the write lock"), transaction(db):
            pass
        other.execute("ROLLBACK")
        with pytest.raises(sqlite3.IntegrityError), transaction(db):
            put("ledger_id")(db)


async def test_who_waits_for_a_commit_goes_on_before_the_next_one(opened: Open) -> None:
    """A reload notes its destinations, then sets the routes: no event may be recorded in between by the old ones."""
    order: list[str] = []

    def note(name: str) -> Any:
        return lambda _: order.append(name)

    async def reload() -> None:
        await opened.writer.run(note("noted"))
        order.append("routes are set")

    reloading = asyncio.create_task(reload())
    while not order:  # noqa: ASYNC110 - its commit is on its way
        await asyncio.sleep(0)
    await opened.writer.run(note("recorded"))
    await reloading
    assert order == ["noted", "routes are set", "recorded"]
