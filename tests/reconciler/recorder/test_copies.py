"""A backup while webhooks wait: whoever starts with the copy records them, once."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.intake.copying import copy_after
from reconciler.ledger.intake.file import IntakeFile, intake_path
from reconciler.ledger.intake.intake import Place
from reconciler.ledger.intake.reader import SqliteReader
from reconciler.ledger.intake.replacing import open_or_replace
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.place import Progress, note_progress, place, progress
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.upkeep import backup as copying
from reconciler.ledger.upkeep.backup import backup, restore
from reconciler.ledger.views.backlog import backlog
from reconciler.recorder.preparing import LOST
from tests.reconciler.recorder.world import (
    append,
    kept,
    life,
    make,
    numbered,
    poison,
    record_all,
    rows,
    titles,
    webhook,
)
from tests.support.damage import overwrite, pages_of
from tests.support.waiting import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "ledger.db"
    make(made)
    return made


def remove_intake(ledger: Path) -> None:
    for one in ledger.parent.glob(f"{intake_path(ledger).name}*"):
        one.unlink()


def names(folder: Path, like: str) -> list[str]:
    return sorted(one.name for one in folder.glob(like))


async def restored(copy: Path, path: Path) -> None:
    """Replace the ledger, start, and wait until everything is recorded."""
    restore(copy, path)
    async with life(path) as made:
        await made.recorded()
        await until(lambda: rows(path, "SELECT count(*) FROM unrecorded WHERE due = 1") == [(0,)])


@pytest.mark.parametrize("intake", ["the same", "another"])
async def test_what_waits_is_in_the_copy(path: Path, tmp_path: Path, intake: str) -> None:
    await append(path, *numbered([1, 2]))
    await record_all(path)
    await append(path, *numbered([3, 4, 5]))
    backup(path, tmp_path / "copy.db")
    with closing(connect(tmp_path / "copy.db", readonly=True)) as db:
        assert backlog(db).waiting == 3
    assert titles(path) == ["1", "2"]
    await record_all(path)  # by the service, after the copy
    if intake == "another":
        remove_intake(path)
    await restored(tmp_path / "copy.db", path)
    assert titles(path) == ["1", "2", "3", "4", "5"]
    assert kept(path) == []


@pytest.mark.parametrize("trimmed", [False, True])
async def test_an_older_intake_that_no_recorder_has_looked_at_is_in_the_copy(
    path: Path, tmp_path: Path, trimmed: bool
) -> None:
    """A receiver runs alone with it: it uses positions again that the ledger counts as recorded."""
    await append(path, *numbered([1, 2]))
    await record_all(path)
    older = intake_path(path).read_bytes()
    await append(path, *numbered([3, 4, 5]))
    await record_all(path)
    intake_path(path).write_bytes(older)
    await append(path, *numbered([6, 7]))
    with closing(connect(path, readonly=True)) as db:
        assert backlog(db).waiting == 2
    backup(path, tmp_path / "copy.db")
    if trimmed:
        remove_intake(path)
    await restored(tmp_path / "copy.db", path)
    assert titles(path) == [f"{n}" for n in range(1, 8)]


async def test_an_older_intake_beside_a_restored_copy_loses_nothing(path: Path, tmp_path: Path) -> None:
    """A receiver alone opened the intake several times: the copy of the ledger knows the last opening."""
    await append(path, *numbered([1, 2]))
    await record_all(path)
    await append(path, *numbered([3, 4]))
    older = intake_path(path).read_bytes()
    await append(path, *numbered([5, 6]))
    backup(path, tmp_path / "copy.db")
    remove_intake(path)
    restore(tmp_path / "copy.db", path)
    intake_path(path).write_bytes(older)
    await append(path, *numbered([101, 102, 103]))
    async with life(path) as made:
        await made.recorded()
    assert set(titles(path)) == {f"{n}" for n in [*range(1, 7), 101, 102, 103]}


async def test_a_damaged_older_intake_that_no_recorder_has_looked_at_loses_nothing(path: Path) -> None:
    await append(path, *numbered([1, 2]))
    await record_all(path)
    older = intake_path(path).read_bytes()
    await append(path, *numbered([3, 4]))
    await record_all(path)
    intake_path(path).write_bytes(older)
    await append(path, *numbered([5, 6]))
    damage = sqlite3.DatabaseError("malformed")
    damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    open_or_replace(intake_path(path), damage).close()
    await append(path, *numbered([7]))
    async with life(path) as made:
        await made.recorded()
    assert titles(path) == [f"{n}" for n in range(1, 8)]


async def test_what_is_recorded_behind_what_is_held_does_not_wait(path: Path) -> None:
    await append(path, *numbered(range(1, 11)))
    await record_all(path)
    with closing(connect(path)) as db, transaction(db):
        found = progress(db)
        assert found is not None
        note_progress(db, Progress(found.intake_id, 8, ((3, 4),)))
        assert backlog(db).waiting == 4


async def test_what_was_recorded_and_trimmed_since_the_copy_does_not_wait(path: Path, tmp_path: Path) -> None:
    await append(path, *numbered([1, 2]))
    await record_all(path)
    backup(path, tmp_path / "copy.db")
    await append(path, *numbered([3, 4, 5]))
    await record_all(path)
    with closing(SqliteReader(intake_path(path))) as intake:
        intake.trim(through=5)
        assert intake.read(after=0, limit=5) == []
    restore(tmp_path / "copy.db", path)
    with closing(connect(path, readonly=True)) as db:
        assert backlog(db).waiting == 0


async def test_a_copy_never_counts_less_as_recorded_than_the_ledger(path: Path, tmp_path: Path) -> None:
    """What is held lies before what was recorded after it."""
    await append(path, *numbered([1, 2, 3, 4]))
    await record_all(path)
    with closing(connect(path)) as db, transaction(db):
        found = progress(db)
        assert found is not None
        note_progress(db, Progress(found.intake_id, 4, ((2, 2),)))
    with closing(SqliteReader(intake_path(path))) as intake:
        intake.trim(through=1)
    with closing(sqlite3.connect(intake_path(path))) as conn:
        conn.execute("DELETE FROM webhooks WHERE position > 2")
        conn.commit()
    backup(path, tmp_path / "copy.db")
    with closing(connect(tmp_path / "copy.db", readonly=True)) as db:
        assert place(db) == Place(found.intake_id, 4)


async def test_a_copy_beside_a_service_that_records(path: Path, tmp_path: Path) -> None:
    async with life(path) as made:
        for n in range(40):
            await append(path, webhook(n))
            if n == 20:
                made.recorder.wake()
                backup(path, tmp_path / "copy.db")
        await made.recorded()
    await restored(tmp_path / "copy.db", path)  # the rest is in the same intake
    assert sorted(titles(path), key=int) == [f"{n}" for n in range(40)]


async def test_the_intake_is_not_held_while_the_ledger_is_copied(path: Path, tmp_path: Path) -> None:
    """A snapshot would let its log grow, and the receiver wait for a checkpoint."""
    await append(path, *numbered([1, 2]))
    busy: list[int] = []

    def look(_done: int, _total: int) -> None:
        with closing(sqlite3.connect(intake_path(path))) as conn:
            conn.execute("PRAGMA busy_timeout = 0")
            conn.execute("UPDATE intake SET checked = checked + 1")
            conn.commit()
            busy.append(conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    backup(path, tmp_path / "copy.db", look)
    assert set(busy) == {0}
    assert names(tmp_path, "copy*") == ["copy.db"]
    await restored(tmp_path / "copy.db", path)
    assert titles(path) == ["1", "2"]


async def test_what_is_recorded_and_trimmed_during_the_copy_is_there_once(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(path, *numbered(range(1, 6)))

    def copy_after_trimming(file: IntakeFile, after: int, made: Path) -> None:
        other.submit(asyncio.run, record_all(path)).result()
        with closing(SqliteReader(intake_path(path))) as intake:
            intake.trim(through=3)
        copy_after(file, after, made)

    with ThreadPoolExecutor(1) as other, monkeypatch.context() as patched:
        patched.setattr(copying, "copy_after", copy_after_trimming)
        backup(path, tmp_path / "copy.db")
    remove_intake(path)
    await restored(tmp_path / "copy.db", path)
    assert titles(path) == ["1", "2", "3", "4", "5"]


async def test_what_came_after_the_copy_and_is_in_the_intake_still(path: Path, tmp_path: Path) -> None:
    await append(path, *numbered([1, 2]))
    backup(path, tmp_path / "copy.db")
    await append(path, webhook(3))
    await restored(tmp_path / "copy.db", path)
    assert sorted(titles(path)) == ["1", "2", "3"]


async def test_what_waited_is_recorded_in_order_and_before_what_came_later(path: Path, tmp_path: Path) -> None:
    await append(path, *numbered(range(130)))
    backup(path, tmp_path / "copy.db")
    with closing(connect(tmp_path / "copy.db", readonly=True)) as copy:
        assert unrecorded.counted(copy) is None  # they wait: nothing has failed
    await append(path, *numbered(range(130, 150)))
    restore(tmp_path / "copy.db", path)
    poison(path, "7")
    await record_all(path)
    assert titles(path) == [f"{n}" for n in range(150) if n != 7]
    assert [(title, tries) for title, _, tries in kept(path)] == [("7", 1)]


async def test_a_damaged_intake_is_copied_but_for_what_can_t_be_read(path: Path, tmp_path: Path) -> None:
    await append(path, *numbered([f"{n}:{'x' * 3000}" for n in range(1, 21)]))
    pages = pages_of(intake_path(path), "webhooks")
    overwrite(intake_path(path), [pages[len(pages) // 2]])
    backup(path, tmp_path / "copy.db")
    with closing(SqliteReader(intake_path(path))), closing(connect(tmp_path / "copy.db")) as copy:
        [(waiting,)] = copy.execute("SELECT count(*) FROM unrecorded").fetchall()
    assert waiting == 20
    await restored(tmp_path / "copy.db", path)
    lost = kept(path)
    assert {error for _, error, _ in lost} == {LOST}
    assert len(titles(path)) == 20 - len(lost) >= 17


async def test_a_link_to_a_ledger_has_the_same_intake(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "folder" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    await append(link, *numbered([1, 2]))
    await record_all(path)
    assert titles(path) == ["1", "2"]
    await append(path, webhook(3))
    backup(link, tmp_path / "copy.db")
    await restored(tmp_path / "copy.db", link)
    assert link.is_symlink()
    assert titles(path) == ["1", "2", "3"]
