"""The one writer: what it acknowledges is on disk, at the ledger's path; one change's trouble is that change's."""

from __future__ import annotations

import asyncio
import contextlib
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
from reconciler.ledger.recording import writer
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect, touch, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.location import Location
from tests.support.filled import made
from tests.support.ledgers import ledger_location


class Heard(Listener):
    """Keeps the troubles that the ledger reports."""

    def __init__(self) -> None:
        self.troubles: list[str | None] = []

    def trouble(self, reason: str | None) -> None:
        self.troubles.append(reason)


class Open:
    """A ledger, and its writer."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.db = connect(location)
        self.writer = Writer(self.db)

    @property
    def path(self) -> Path:
        assert isinstance(self.location, Path)
        return self.location

    def values(self) -> dict[str, str]:
        """What is at the ledger's location, for who opens it anew."""
        with closing(connect(self.location, readonly=True)) as other:
            return dict(other.execute("SELECT name, value FROM meta WHERE name LIKE 'x%'"))


@pytest.fixture
async def opened(ledger_at: Location) -> AsyncIterator[Open]:
    one = Open(ledger_at)
    yield one
    await one.writer.close()
    one.db.close()


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[Open]:
    one = Open(tmp_path / "ledger.db")
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
            await opened.writer.run(lambda db, sql=sql: db.execute(sql))  # type: ignore[misc]  # of its own `sql`, whose type mypy does not infer


async def test_damage_is_met_by_who_reads_it_alone(file: Open) -> None:
    await file.writer.run(lambda db: db.execute("INSERT INTO search (rowid, kind) VALUES (1, 'push')"))
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("DELETE FROM search_data")
    heard = file.writer.listener = Heard()
    search = "SELECT rowid FROM search WHERE search MATCH 'push'"
    damaged = file.writer.run(lambda db: db.execute(search).fetchall())
    sound = file.writer.run(put("x1"))
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


async def test_nothing_is_acknowledged_while_the_file_is_away(file: Open) -> None:
    heard = file.writer.listener = Heard()
    await file.writer.run(put("x1"))
    aside = file.path.with_name("aside")
    with capture_logs() as logs:
        file.path.rename(aside)
        for _ in range(3):
            with pytest.raises(LedgerUnavailable, match="was moved or removed"):
                await file.writer.run(put("x-lost"))
        aside.rename(file.path)  # the very same file
        await file.writer.run(put("x2"))
    assert file.values().keys() == {"x1", "x2"}
    assert [line["event"] for line in logs] == ["the ledger can't be written", "the ledger can be written again"]
    assert [None if one is None else "moved" in one for one in heard.troubles] == [True, None]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["removed", "replaced by a copy"])
async def test_each_file_is_watched(file: Open, suffix: str, how: str) -> None:
    await file.writer.run(put("x1"))
    one = file.path.with_name(file.path.name + suffix)
    copy = one.with_name("copy")
    shutil.copyfile(one, copy)
    one.unlink()
    if how != "removed":
        copy.rename(one)
    with pytest.raises(LedgerUnavailable, match="nothing is written to it"):
        await file.writer.run(put("x-lost"))
    with pytest.raises(LedgerUnavailable, match="nothing is written to it"), transaction(file.db) as db:
        put("x-lost")(db)


async def test_what_the_wal_held_is_in_the_ledger_after_the_stop_that_is_advised(tmp_path: Path) -> None:
    one = Open(tmp_path / "ledger.db")
    await one.writer.run(put("x1"))
    one.path.with_name("ledger.db-wal").unlink()
    with pytest.raises(LedgerUnavailable, match="stop the service"):
        await one.writer.run(put("x2"))
    await one.writer.close()
    one.db.close()
    assert one.values().keys() == {"x1"}


async def test_a_file_that_goes_away_during_the_commit_is_noticed_before_the_answer(file: Open) -> None:
    """The commit itself goes well: it is the file that is no longer there."""

    def away(sql: str) -> None:
        if sql == "COMMIT":
            file.path.rename(file.path.with_name("aside"))

    def and_away(db: Database) -> None:
        put("x1")(db)
        assert isinstance(db, SqliteDatabase)
        db.conn.set_trace_callback(away)

    with pytest.raises(LedgerUnavailable, match="was moved or removed"):
        await file.writer.run(and_away)


async def test_a_folder_that_is_moved_with_all_in_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    one = Open(tmp_path / "data" / "ledger.db")
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
    one = Open(Path("ledger.db"))
    monkeypatch.chdir(tmp_path)
    await one.writer.run(put("x1"))
    await one.writer.close()
    one.db.close()


def test_a_transaction_s_trouble_is_told_in_words(ledger_at: Location) -> None:
    with closing(connect(ledger_at, patience_s=0)) as db, closing(connect(ledger_at)) as other:
        other.begin()
        with pytest.raises(LedgerUnavailable, match="another process holds the write lock"), transaction(db):
            pass
        other.rollback()
        with pytest.raises(db.Error, match=r"(?i)unique"), transaction(db):
            put("ledger_id")(db)
        with transaction(db):
            put("x1")(db)


async def test_changes_wait_for_another_process_and_are_made_then(opened: Open) -> None:
    with closing(connect(opened.location)) as other:
        other.begin()
        waiting = opened.writer.run(put("x1"))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        other.rollback()
        await waiting
    assert opened.values().keys() == {"x1"}


async def test_changes_that_waited_too_long_fail(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BUSY_PATIENCE_S", 0.02)
    with closing(connect(opened.location)) as other:
        other.begin()
        with pytest.raises(LedgerUnavailable, match="another process holds the write lock"):
            await opened.writer.run(put("x-lost"))
        other.rollback()
    await opened.writer.run(put("x1"))
    assert opened.values().keys() == {"x1"}


async def test_a_change_that_goes_on_after_a_failed_statement_loses_nothing_silently(opened: Open) -> None:
    """PostgreSQL's COMMIT would roll back, and say nothing."""

    def goes_on(db: Database) -> None:
        put("x1")(db)
        with contextlib.suppress(db.Error):
            put("ledger_id")(db)

    wanted = [opened.writer.run(change) for change in (put("x2"), goes_on)]
    came = await asyncio.gather(*wanted, return_exceptions=True)
    expected = {"x2"} if isinstance(came[1], ChangeFailed) else {"x1", "x2"}
    assert opened.values().keys() == expected


@pytest.mark.postgresql
@pytest.mark.parametrize("when", ["before", "in a batch", "before its commit"])
async def test_a_lost_connection_fails_everything_that_waits(tmp_path: Path, when: str) -> None:
    def end(_: object) -> None:
        with closing(connect(location)) as other:
            other.execute("SELECT pg_terminate_backend(?, 10000)", (process,))

    with ledger_location("postgresql", tmp_path) as location:
        one = Open(location)
        process = one.db.execute("SELECT pg_backend_pid()").fetchone()[0]
        changes = [put("x1"), put("x2")]
        if when == "before":
            end(None)
        else:
            changes.insert(1 if when == "in a batch" else 2, end)
        came = await asyncio.gather(*(one.writer.run(change) for change in changes), return_exceptions=True)
        assert [type(error) for error in came] == [LedgerUnavailable] * len(changes)
        with pytest.raises(LedgerUnavailable):
            await one.writer.run(put("x3"))
        assert one.values() == {}
        await one.writer.close()
        one.db.close()


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
