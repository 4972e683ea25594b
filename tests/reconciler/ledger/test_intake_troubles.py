"""The intake's file is moved, removed, damaged, locked or full: what was acknowledged stays, and more is received."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake import copying, file, reader, replacing
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.ledger.intake.file import look_into, open_intake
from reconciler.ledger.intake.intake import StoredWebhook
from reconciler.ledger.intake.reader import SqliteReader
from reconciler.ledger.intake.rows import openings, read_after
from tests.reconciler.ledger.test_intake import SQLITE, append, webhook
from tests.reconciler.ledger.test_intake import bodies as bodies_of
from tests.support.damage import overwrite, pages_of

BIG = "x" * 3000
"""Two of these fill a page."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "intake"


def read(path: Path, *, after: int = 0) -> list[StoredWebhook]:
    with closing(SqliteReader(path)) as intake:
        return intake.read(after=after, limit=10_000)


def bodies(path: Path) -> list[str]:
    return bodies_of(read(path))


def rename(path: Path, aside: Path) -> None:
    path.rename(aside)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def identity(path: Path) -> str:
    with closing(open_intake(path)) as found:
        return found.id


def files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "")]


def move(path: Path, aside: Path) -> None:
    for old, new in zip(files(path), files(aside), strict=True):
        if old.exists():
            old.rename(new)


async def filled(path: Path, count: int = 40) -> None:
    """Numbered webhooks, all of them in the file itself."""
    await append(SQLITE, path, *(f"{n}:{BIG}" for n in range(1, count + 1)))


def damaged_aside(path: Path) -> list[Path]:
    return [one for one in path.parent.glob(f"{path.name}.damaged-*") if one.name[-4:] not in ("-wal", "-shm")]


@contextmanager
def said(path: Path) -> Iterator[None]:
    """The log says where the damaged file is, and it is there as it was."""
    before = path.read_bytes()
    with structlog.testing.capture_logs() as logged:
        yield
    [line] = [one for one in logged if one["event"].startswith("intake damaged")]
    [aside] = damaged_aside(path)
    assert line["at"] == str(aside)
    assert aside.read_bytes() == before


@pytest.mark.parametrize("what", ["moved", "removed", "replaced"])
async def test_another_file_or_none_is_in_its_place(path: Path, what: str) -> None:
    intake = SqliteAppender(path)
    await intake.append(webhook("one"))
    old = SqliteReader(path)
    aside = path.with_name("aside")
    if what == "removed":
        for one in files(path):
            one.unlink()
    else:
        move(path, aside)
    if what == "replaced":
        await append(SQLITE, path, "of another")
    assert old.is_replaced()
    await intake.append(webhook("two"))
    assert bodies_of(old.read(after=0, limit=10)) == ["one"]  # the old one is read to its end
    assert identity(path) != old.intake_id
    old.close()
    await intake.append(webhook("three"))
    await intake.close()
    assert bodies(path) == (["of another"] if what == "replaced" else []) + ["two", "three"]
    if what != "removed":
        assert bodies(aside) == ["one"]


async def test_a_log_that_was_removed_is_another_intake(path: Path) -> None:
    """Its positions may be used again: who recorded the old ones must not take the new ones for them."""
    intake = SqliteAppender(path)
    await intake.append(webhook("one"))
    before = identity(path)
    for one in files(path)[:2]:
        one.unlink()
    await intake.append(webhook("two"))
    await intake.close()
    assert "two" in bodies(path)
    assert identity(path) != before


async def test_only_the_file_itself_was_moved(path: Path) -> None:
    """Its log, which stays, is kept for it, and is not taken for that of the new file."""
    intake = SqliteAppender(path)
    await intake.append(webhook("one"))
    old = SqliteReader(path)
    rename(path, path.with_name("aside"))
    await intake.append(webhook("two"))
    assert bodies_of(old.read(after=0, limit=10)) == ["one"]
    old.close()
    await intake.close()
    assert bodies(path) == ["two"]
    assert damaged_aside(path) == []
    assert len(list(path.parent.glob("intake.left-*-wal"))) == 1


async def test_a_file_that_is_no_database(path: Path) -> None:
    write(path, b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(IntakeUnavailable, match="is no SQLite database"):
        SqliteReader(path)
    with pytest.raises(IntakeUnavailable, match="is no SQLite database"):
        look_into(path)
    with said(path):
        await append(SQLITE, path, "one")
    assert bodies(path) == ["", "one"]  # the first stands for what it may have had: the recorder keeps it as lost


async def test_a_damaged_page_is_passed_over(path: Path) -> None:
    await filled(path)
    pages = pages_of(path, "webhooks")
    overwrite(path, [pages[len(pages) // 2]])
    with closing(SqliteReader(path)) as intake:
        everything, after = [], 0
        while some := intake.read(after=after, limit=7):
            everything += some
            after = some[-1].position
    assert [one.position for one in everything] == list(range(1, 41))
    lost = [one for one in everything if one.webhook.is_lost]
    assert 1 <= len(lost) <= 3
    for one in everything:
        if one not in lost:
            assert one.webhook.body == f"{one.position}:{BIG}".encode()


async def test_a_damaged_tail_begins_another_file_with_what_can_be_read(path: Path) -> None:
    await filled(path)
    ident = identity(path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path, pages_of(path, "webhooks")[-1:])
    with said(path):
        await append(SQLITE, path, "new", "newer")
    found = read(path)
    assert [one.position for one in found] == list(range(1, 43))
    assert bodies_of(found)[-2:] == ["new", "newer"]
    assert bodies_of(found)[:38] == [f"{n}:{BIG}" for n in range(1, 39)]
    assert any(one.webhook.is_lost for one in found[38:40])
    assert identity(path) == ident  # so that nothing of it is recorded twice
    assert {stored.stat().st_mode & 0o777 for stored in files(path) if stored.exists()} == {0o600}


async def test_a_damaged_page_that_trimming_has_reached(path: Path) -> None:
    """The receiver only appends behind it. When it is started again, it begins another file."""
    await filled(path)
    overwrite(path, pages_of(path, "webhooks")[1:2])
    with closing(SqliteReader(path)) as intake, pytest.raises(IntakeUnavailable, match="the file is damaged"):
        intake.trim(through=40)
    with said(path):
        await append(SQLITE, path, "new")
    with closing(SqliteReader(path)) as intake:
        assert bodies_of(intake.read(after=40, limit=10)) == ["new"]
        intake.openings_seen()
        while intake.trim(through=40):
            pass
        assert [one.position for one in intake.read(after=0, limit=10)] == [41]


async def test_without_its_last_position_it_is_another_intake(path: Path) -> None:
    await filled(path, 6)
    ident = identity(path)
    overwrite(path, pages_of(path, "sqlite_sequence"))
    with said(path):
        await append(SQLITE, path, "new")
    assert identity(path) != ident
    assert bodies(path) == [*(f"{n}:{BIG}" for n in range(1, 7)), "new"]


async def test_a_text_that_can_t_be_read(path: Path) -> None:
    await append(SQLITE, path, "1", "2", "3")
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("UPDATE webhooks SET headers = CAST(x'7bff' AS TEXT) WHERE position = 2")
        conn.commit()
    found = read(path) + read(path, after=1)
    assert {(one.position, one.webhook.is_lost) for one in found} == {(1, False), (2, True), (3, False)}


async def test_positions_that_were_trimmed_are_skipped_when_rows_are_read_one_by_one(path: Path) -> None:
    await append(SQLITE, path, "1", "2")
    asked: list[str] = []
    with closing(open_intake(path)) as found:
        found.conn.execute("UPDATE webhooks SET headers = CAST(x'7bff' AS TEXT), position = position * 20000")
        found.conn.execute("UPDATE sqlite_sequence SET seq = 40000")
        found.conn.set_trace_callback(asked.append)
        rows = read_after(found.conn, after=0, limit=10)
    assert [(one.position, one.webhook.is_lost) for one in rows] == [(20_000, True), (40_000, True)]
    assert len(asked) < 20


async def test_no_room_for_another_file_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read of the damaged one must not depend on a copy that failed."""
    await filled(path)
    overwrite(path, pages_of(path, "webhooks")[-1:])
    with monkeypatch.context() as patched:

        def full(*_: object) -> tuple[int, int]:
            raise OSError(28, "No space left on device")

        patched.setattr(replacing, "copy_damaged", full)
        with pytest.raises(IntakeUnavailable, match="No space left"):
            await append(SQLITE, path, "new")
    assert damaged_aside(path) == []
    await append(SQLITE, path, "new")
    assert [one.position for one in read(path)] == list(range(1, 42))


KILLED = """
import os, sqlite3, sys
from pathlib import Path
from reconciler.ledger.intake.replacing import open_or_replace

left, rename = int(sys.argv[2]), Path.rename

def counted(change):
    def run(self, *arguments):
        global left
        if not left:
            os._exit(9)
        left -= 1
        return change(self, *arguments)
    return run

Path.rename, Path.replace = counted(Path.rename), counted(Path.replace)
open_or_replace(Path(sys.argv[1]), sqlite3.DatabaseError("malformed"))
"""


@pytest.mark.parametrize("renames", range(5))
@pytest.mark.parametrize("first", ["receiver", "recorder"])
async def test_a_kill_while_it_is_replaced_loses_nothing(path: Path, renames: int, first: str) -> None:
    living = SqliteAppender(path)  # so that the log has to be moved too
    for n in range(1, 41):
        await living.append(webhook(f"{n}:{BIG}"))
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED, str(path), str(renames)])
    assert done.returncode == (9 if renames < 5 else 0)
    if renames < 2:
        await living.append(webhook("41"))
    if first == "recorder":
        assert len(bodies(path)) == (41 if renames < 2 else 40)
    await append(SQLITE, path, "new")
    await living.close()
    expected = [*(f"{n}:{BIG}" for n in range(1, 41)), *(["41"] if renames < 2 else []), "new"]
    assert bodies(path) == expected
    assert not list(path.parent.glob("*.replacing*"))


async def test_nothing_is_appended_to_one_that_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two receivers, of which one has met damage."""
    other = SqliteAppender(path)
    await other.append(webhook("one"))
    waiting: list[asyncio.Future[None]] = []
    copy, loop = copying.copy_damaged, asyncio.get_running_loop()

    def copy_and_append(*arguments: Any) -> tuple[int, int]:
        result = copy(*arguments)
        loop.call_soon_threadsafe(lambda: waiting.append(other.append(webhook("two"))))
        return result

    monkeypatch.setattr(replacing, "copy_damaged", copy_and_append)
    opened = await asyncio.to_thread(replacing.open_or_replace, path, sqlite3.DatabaseError("malformed"))
    opened.close()
    await waiting[0]
    await other.close()
    assert bodies(path) == ["one", "two"]


async def test_another_process_holds_its_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PATIENCE_S", 0.02)
    troubles: list[str | None] = []
    intake = SqliteAppender(path, trouble=troubles.append)
    await intake.append(webhook("one"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IntakeUnavailable, match="another process holds the write lock"):
            await intake.append(webhook("two"))
        other.execute("ROLLBACK")
    await intake.append(webhook("three"))
    await intake.close()
    assert bodies(path) == ["one", "three"]
    assert [why is None for why in troubles] == [False, True]


async def test_trimming_does_not_write_the_bodies_again(path: Path) -> None:
    await append(SQLITE, path, "x" * 1_000_000)
    with closing(SqliteReader(path)) as intake:
        intake.openings_seen()
        intake.trim(through=intake.last_position())
        assert files(path)[0].stat().st_size < 200_000


async def test_a_long_log_waits_for_no_reader(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that waited for a snapshot would keep the receiver waiting too."""
    monkeypatch.setattr(file, "PATIENCE_S", 600)
    monkeypatch.setattr(reader, "WAL_LIMIT_BYTES", 0)
    intake = SqliteAppender(path)
    await intake.append(webhook("one"))
    with closing(SqliteReader(path)) as trimming, closing(sqlite3.connect(path, isolation_level=None)) as snapshot:
        snapshot.execute("BEGIN")
        snapshot.execute("SELECT 1 FROM webhooks").fetchone()
        await intake.append(webhook("two"))
        checkpoint = asyncio.create_task(asyncio.to_thread(trimming.checkpoint))
        try:
            await asyncio.wait([checkpoint], timeout=20)
            assert checkpoint.done()
        finally:
            snapshot.execute("COMMIT")
            await checkpoint
        assert trimming._file.conn.execute("PRAGMA busy_timeout").fetchone() == (600_000,)
    await intake.close()


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.ledger.intake.intake import ReceivedWebhook

async def main():
    intake, acknowledged = SqliteAppender(Path(sys.argv[1])), 0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        while True:
            await intake.append(ReceivedWebhook("default", 1, {}, f"{acknowledged}:".encode() + b"x" * 5000))
            acknowledged += 1
    except IntakeUnavailable as error:
        print("disk" in str(error), file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await intake.append(ReceivedWebhook("default", 1, {}, f"{acknowledged}:".encode()))
    await intake.close()
    print(acknowledged + 1)

asyncio.run(main())
"""


def test_a_full_disk(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True, timeout=100
    )
    assert "True" in done.stderr.splitlines()
    acknowledged = int(done.stdout.splitlines()[-1])
    numbers = [int(body.partition(":")[0]) for body in bodies(path)]
    assert set(numbers) >= set(range(acknowledged))
    assert numbers == sorted(numbers)


async def test_one_of_a_later_version_is_left_alone(path: Path) -> None:
    await append(SQLITE, path, "one")
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(f"PRAGMA user_version = {file.VERSION + 1}")
    with pytest.raises(IntakeUnavailable, match="later version"):
        await append(SQLITE, path, "two")
    with pytest.raises(IntakeUnavailable, match="later version"):
        SqliteReader(path)
    assert damaged_aside(path) == []


async def test_one_without_an_id(path: Path) -> None:
    await append(SQLITE, path, "one")
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("DELETE FROM intake")
        conn.commit()
    for ask in (look_into, SqliteReader):
        with pytest.raises(IntakeUnavailable, match="has no id"):
            ask(path)
    with pytest.raises(IntakeUnavailable, match="has no id"):
        await append(SQLITE, path, "two")


async def test_only_its_owner_may_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        intake = SqliteAppender(path)
        await intake.append(webhook("one"))
        modes = {one.name: one.stat().st_mode & 0o777 for one in files(path)}
        await intake.close()
    finally:
        os.umask(before)
    assert modes == {"intake": 0o600, "intake-wal": 0o600, "intake-shm": 0o600}


async def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    await append(SQLITE, tmp_path / "new" / "intake", "one")
    (tmp_path / "file").write_text("")
    with pytest.raises(IntakeUnavailable, match="can't be opened"):
        await asyncio.wait_for(append(SQLITE, tmp_path / "file" / "intake", "one"), 60)


@pytest.mark.parametrize("version", [1, 2])
async def test_one_of_an_earlier_version_is_upgraded_with_what_waits_in_it(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as conn:
        opened = ", opened_after INTEGER" if version == 2 else ""
        conn.executescript(f"""
            CREATE TABLE webhooks (
                position INTEGER PRIMARY KEY AUTOINCREMENT, received_at TEXT NOT NULL, hook TEXT NOT NULL,
                headers TEXT NOT NULL, body BLOB NOT NULL
            );
            CREATE TABLE intake (id TEXT NOT NULL, checked INTEGER NOT NULL DEFAULT 0{opened});
            INSERT INTO intake (id) VALUES ('abc');
            INSERT INTO webhooks VALUES (7, '2026-11-30T12:00:00.000Z', 'default', '{{}}', 'old');
            PRAGMA user_version = {version};
        """)
        if version == 2:
            conn.execute("UPDATE intake SET opened_after = 3")
            conn.commit()
    before = [3] if version == 2 else []
    file = look_into(path)
    assert file is not None
    with closing(file):
        assert [one.after for one in openings(file.conn)] == before
    await append(SQLITE, path, "new")
    with closing(SqliteReader(path)) as intake:
        assert intake.intake_id == "abc"
        assert bodies_of(intake.read(after=0, limit=10)) == ["old", "new"]
        assert [one.after for one in intake.openings()] == [*before, 7]
