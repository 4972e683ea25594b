"""What was acknowledged is recorded once and in order, whatever one webhook, the intake or the ledger does."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.times import Millis
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.ledger import beside
from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.intake.intake import Reader, ReceivedWebhook, StoredWebhook
from reconciler.ledger.intake.places import opener
from reconciler.ledger.intake.reader import SqliteReader
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording import unrecorded, writer
from reconciler.ledger.recording.place import Progress, note_progress, progress
from reconciler.ledger.recording.unrecorded import ENDED, FailedWebhook
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.upkeep.backup import backup, restore
from reconciler.ledger.upkeep.repair import repair
from reconciler.recorder import reading, recorder
from reconciler.recorder.preparing import LOST
from reconciler.recorder.reading import WebhookReader
from reconciler.recorder.recorder import Recorder
from reconciler.recorder.trimmer import Trimmer
from tests.reconciler.recorder.world import (
    NOW,
    antidote,
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

MIXED = [1, 2, "poison", 3, 4]


async def test_an_intake_that_is_slow_to_open_holds_up_nothing_else(path: Path) -> None:
    await append(path, webhook(1))
    begun, ended = threading.Event(), threading.Event()

    def slow() -> Reader:
        begun.set()
        assert ended.wait(5)
        return opener(path)()

    with closing(connect(path)) as db, closing(connect(path, readonly=True)) as also:
        ledger = Ledger(Writer(db), also)
        recording = Recorder(slow, ledger=ledger, reader=WebhookReader({}, ExpectedTests()))
        running = asyncio.create_task(recording.run())
        await until(begun.is_set)
        ended.set()
        await asyncio.wait_for(recording.drain(20), 20)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await ledger.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "ledger.db"
    make(made)
    return made


@pytest.fixture(params=["a bug", "the ledger"])
def broken(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Something that fails for one body. Calling it mends that."""
    if request.param == "the ledger":
        poison(path)
        return partial(antidote, path)

    def fails(body: Any, **more: Any) -> Any:
        if body["object_attributes"]["title"] == "poison":
            raise KeyError("poisoned")
        return webhook_sighting(body, **more)

    monkeypatch.setattr(reading, "webhook_sighting", fails)
    return partial(monkeypatch.setattr, reading, "webhook_sighting", webhook_sighting)


async def test_one_that_breaks_something_is_kept_and_stops_no_other(path: Path, broken: Any) -> None:
    await append(path, *numbered(MIXED))
    async with life(path) as made:
        await made.recorded()
        assert titles(path) == ["1", "2", "3", "4"]
        [(title, error, tries)] = kept(path)
        assert (title, "poisoned" in error, tries) == ("poison", True, 1)
        await append(path, webhook(5))
        await made.recorded()
    assert titles(path) == ["1", "2", "3", "4", "5"]


async def test_a_start_tries_it_again(path: Path, broken: Any) -> None:
    await append(path, *numbered(MIXED))
    await record_all(path)
    async with life(path) as made:
        await made.recorded()
        await until(lambda: [tries for *_, tries in kept(path)] == [2])
        assert rows(path, "SELECT count(*) FROM unrecorded WHERE due = 1") == [(0,)]
    broken()
    await record_all(path)
    assert kept(path) == []
    assert titles(path) == ["1", "2", "3", "4", "poison"]


async def test_it_is_tried_again_when_someone_asks(path: Path, broken: Any) -> None:
    await append(path, *numbered(MIXED))
    async with life(path) as made:
        await made.recorded()
        broken()
        with closing(connect(path)) as db:
            assert beside.retry_unrecorded(db, None) == 1
        made.recorder.look_again()
        await until(lambda: not kept(path))
    assert titles(path) == ["1", "2", "3", "4", "poison"]


async def test_what_can_t_even_be_kept_waits_in_the_intake(path: Path) -> None:
    poison(path)
    with closing(connect(path)) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON unrecorded BEGIN SELECT RAISE(ABORT, 'no room'); END")
    await append(path, *numbered(MIXED))
    async with life(path) as made:
        with pytest.raises(Exception, match="no room"):
            await made.recorded()
    assert titles(path) == ["1", "2"]
    antidote(path)
    await record_all(path)
    assert titles(path) == ["1", "2", "poison", "3", "4"]


async def test_a_ledger_that_is_locked_is_recorded_in_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BUSY_PATIENCE_S", 0.02)
    monkeypatch.setattr(recorder, "LEDGER_PAUSE_S", 0.01)
    async with life(path) as made:
        await made.recorded()
        troubles: list[str | None] = []
        monkeypatch.setattr(made.ledger._writer.listener, "trouble", troubles.append)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await append(path, *numbered([1, 2, 3]))
            await until(lambda: troubles)
            assert titles(path) == []
            other.execute("ROLLBACK")
        await made.recorded()
    assert titles(path) == ["1", "2", "3"]
    assert kept(path) == []


async def test_a_restart_goes_on_where_it_was(path: Path) -> None:
    for n in range(3):
        await append(path, webhook(n))
        await record_all(path)
    assert titles(path) == ["0", "1", "2"]


async def test_another_intake_is_read_from_its_beginning(path: Path) -> None:
    await append(path, *numbered([1, 2, 3]))
    async with life(path) as made:
        await made.recorded()
        intake_path(path).rename(path.with_name("aside"))
        await append(path, webhook(4))
        await until(lambda: titles(path) == ["1", "2", "3", "4"])
    await append(path, webhook(5))
    await record_all(path)
    assert titles(path) == ["1", "2", "3", "4", "5"]


async def test_nothing_is_left_in_a_file_that_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last webhook is acknowledged after the recorder has read the file, and before it sees that it was moved."""
    real = SqliteReader.is_replaced
    last = [webhook("last")]

    def is_replaced(self: SqliteReader) -> bool:
        if last:
            one = last.pop()
            with closing(sqlite3.connect(intake_path(path))) as conn:
                conn.execute(
                    "INSERT INTO webhooks (received_at, hook, headers, body) VALUES ('', 'default', '{}', ?)",
                    (one.body,),
                )
                conn.commit()
            intake_path(path).rename(path.with_name("aside"))
        return real(self)

    await append(path, webhook(1))
    monkeypatch.setattr(SqliteReader, "is_replaced", is_replaced)
    async with life(path) as made:
        await until(lambda: not last)
        await append(path, webhook(2))
        await made.recorded()
        await until(lambda: titles(path)[-1] == "2")
    assert titles(path) == ["1", "last", "2"]


async def test_an_intake_that_lost_its_end_is_read_again(path: Path) -> None:
    await append(path, *numbered([1, 2, 3]))
    await record_all(path)
    with closing(sqlite3.connect(intake_path(path))) as conn:  # as an older copy of the file has it
        conn.execute("DELETE FROM webhooks")
        conn.execute("UPDATE sqlite_sequence SET seq = 0")
        conn.commit()
    await append(path, webhook(4))
    await record_all(path)
    assert titles(path) == ["1", "2", "3", "4"]


async def test_a_read_that_fails_repeats_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails while the batch before it is being committed."""
    monkeypatch.setattr(recorder, "BATCH", 2)
    real, asked = SqliteReader.read, 0

    def read(self: SqliteReader, *, after: int, limit: int) -> list[StoredWebhook]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise IntakeUnavailable("the disk reports an error")
        return real(self, after=after, limit=limit)

    monkeypatch.setattr(SqliteReader, "read", read)
    await append(path, *numbered([1, 2, 3]))
    async with life(path) as made:
        with pytest.raises(IntakeUnavailable):
            await made.running
        made.running = asyncio.create_task(made.recorder.run())
        await made.recorded()
    assert titles(path) == ["1", "2", "3"]


async def test_a_damaged_intake_is_recorded_but_for_what_can_t_be_read(path: Path) -> None:
    await append(path, *numbered([f"{n}:{'x' * 3000}" for n in range(1, 21)]))
    pages = pages_of(intake_path(path), "webhooks")
    overwrite(intake_path(path), [pages[len(pages) // 2]])
    async with life(path) as made:
        await made.recorded()
        await append(path, webhook("21:"))
        await made.recorded()
    lost = kept(path)
    assert lost
    assert {(title, error) for title, error, _ in lost} == {("", LOST)}
    assert len(titles(path)) == 21 - len(lost)
    assert titles(path)[-1] == "21:"
    await record_all(path)  # a start tries them again
    assert [error for _, error, _ in kept(path)] == [LOST] * len(lost)


async def test_a_damaged_file_that_was_replaced_repeats_nothing(path: Path) -> None:
    await append(path, *numbered([f"{n}:{'x' * 3000}" for n in range(1, 21)]))
    await record_all(path)
    overwrite(intake_path(path), pages_of(intake_path(path), "webhooks")[-1:])
    await append(path, webhook("21:"), webhook("22:"))
    await record_all(path)
    assert [title.partition(":")[0] for title in titles(path)] == [f"{n}" for n in range(1, 23)]
    assert kept(path) == []


async def test_what_is_recorded_is_trimmed_and_nothing_else(path: Path) -> None:
    poison(path)
    await append(path, *numbered(MIXED))
    async with life(path) as made:
        await made.recorded()
        await append(path, webhook(5))
        trimming = asyncio.create_task(Trimmer(opener(path), ledger=made.ledger).run())
        await made.recorded()

        def left() -> int:
            with closing(sqlite3.connect(intake_path(path))) as conn:
                return int(conn.execute("SELECT count(*) FROM webhooks").fetchone()[0])

        await until(lambda: left() == 0)
        await made.kill()
        await append(path, webhook(6))
        place = made.ledger.recording.place()
        assert place is not None
        with closing(SqliteReader(intake_path(path))) as intake:
            intake.trim(through=place.position)
        trimming.cancel()
        await asyncio.gather(trimming, return_exceptions=True)
        assert left() == 1
    await record_all(path)
    assert titles(path) == ["1", "2", "3", "4", "5", "6"]


class Dead(BaseException):
    """The process is gone."""


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one of the webhooks ends the process."""

    def ends(body: Any, **more: Any) -> Any:
        if body["object_attributes"]["title"] == "poison":
            raise Dead
        return webhook_sighting(body, **more)

    monkeypatch.setattr(reading, "webhook_sighting", ends)


def survives(path: Path) -> bool:
    try:
        asyncio.run(record_all(path))
    except Dead:
        return False
    return True


@pytest.mark.usefixtures("deadly")
def test_one_that_ends_the_worker_is_kept_at_last(path: Path) -> None:
    asyncio.run(append(path, *numbered(MIXED)))
    assert [survives(path) for _ in range(8)] == [False] * 6 + [True] * 2
    assert titles(path) == ["1", "2", "3", "4"]
    assert kept(path) == [("poison", ENDED, 1)]


@pytest.mark.usefixtures("deadly")
@pytest.mark.parametrize("error", ["asked for by hand", "waits in a copy"])
def test_one_that_is_kept_and_ends_the_worker(path: Path, error: str) -> None:
    with closing(connect(path)) as db, transaction(db):
        failed = [FailedWebhook(one, error) for one in numbered(["poison", 1])]
        unrecorded.keep(db, failed, now=NOW, due=error == "waits in a copy")
        unrecorded.make_due(db)
    asyncio.run(append(path, webhook(2)))
    assert [survives(path) for _ in range(8)] == [False] * 6 + [True] * 2
    assert titles(path) == ["1", "2"]
    assert [(title, error) for title, error, _ in kept(path)] == [("poison", ENDED)]


def test_after_a_stop_in_order_nothing_is_tried_one_by_one(path: Path) -> None:
    async def lives() -> list[bool]:
        found = []
        for n in range(3):
            await append(path, webhook(n))  # before the start: what comes later ended no process before it
            async with life(path) as made:
                await made.recorded()
                found.append(bool(rows(path, "SELECT * FROM meta WHERE name = 'recorder trying'")))
                if n == 1:
                    await made.ledger.note_stop(NOW)
        return found

    assert asyncio.run(lives()) == [False, True, False]


def damaged_in_part(path: Path) -> None:
    """600 events, and a page is lost of the index that finds them by their source ids."""
    asyncio.run(append(path, *(webhook(n, at=n, headers={"Idempotency-Key": f"{n}"}) for n in range(600))))
    asyncio.run(record_all(path))
    pages = pages_of(path, "sighting_hashes_by_id")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path, [pages[len(pages) // 2]])


def test_what_a_damaged_ledger_can_t_take_waits_in_the_intake(path: Path) -> None:
    """And so a backup that is restored, or a repair, has all of it. What lies behind it is recorded once."""
    damaged_in_part(path)
    asyncio.run(append(path, *(webhook(f"new{n}", headers={"Idempotency-Key": f"new{n}"}) for n in range(40))))
    asyncio.run(append(path, webhook("no id")))  # nothing but the note says that it is recorded
    asyncio.run(record_all(path))
    assert as_noted(path).held
    assert kept(path) == []
    assert 600 < len(titles_unordered(path)) < 641
    asyncio.run(append(path, webhook("last")))
    asyncio.run(record_all(path))  # still damaged
    assert as_noted(path).held
    assert kept(path) == []
    repair(path)
    asyncio.run(record_all(path))
    assert as_noted(path).held == ()
    expected = [*(f"{n}" for n in range(600)), *(f"new{n}" for n in range(40)), "no id", "last"]
    assert sorted(titles_unordered(path)) == sorted(expected)


def test_a_restored_backup_has_what_the_damaged_ledger_could_not_take(path: Path, tmp_path: Path) -> None:
    asyncio.run(append(path, *numbered(["old1", "old2"])))
    asyncio.run(record_all(path))
    backup(path, tmp_path / "copy.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path, pages_of(path, "sightings"))
    asyncio.run(append(path, *numbered(["new1", "new2", "new3"])))
    asyncio.run(record_all(path))
    assert rows(path, "SELECT count(*) FROM unrecorded") == [(0,)]
    with closing(SqliteReader(intake_path(path))) as intake:
        intake.trim(through=as_noted(path).place.position)
    restore(tmp_path / "copy.db", path)
    asyncio.run(record_all(path))
    assert titles(path) == ["old1", "old2", "new1", "new2", "new3"]


def test_a_copy_has_no_webhook_twice_that_is_recorded_behind_a_held_one(path: Path, tmp_path: Path) -> None:
    asyncio.run(append(path, *numbered([1, 2, 3])))
    asyncio.run(record_all(path))
    with closing(connect(path)) as db, transaction(db):
        note_progress(db, Progress(as_noted(path).intake_id, 3, ((2, 2),)))
    backup(path, tmp_path / "copy.db")
    assert [title for title, *_ in kept(tmp_path / "copy.db")] == ["2"]


def as_noted(path: Path) -> Progress:
    with closing(connect(path, readonly=True)) as db:
        found = progress(db)
    assert found is not None
    return found


def titles_unordered(path: Path) -> list[str]:
    return [json.loads(one)["object_attributes"]["title"] for (one,) in rows(path, "SELECT payload FROM sightings")]


async def test_a_project_that_one_webhook_names_is_known_to_the_next(path: Path) -> None:
    named = webhook(1, project={"id": 42, "path_with_namespace": "group/project"})
    await append(path, named, webhook(2, project={"path_with_namespace": "group/project"}))
    await record_all(path)
    await append(path, webhook(3, project={"path_with_namespace": "group/project"}))
    await record_all(path)  # known from the ledger
    assert rows(path, "SELECT project_id FROM sightings ORDER BY id") == [(42,)] * 3


PUSH: dict[str, Any] = {"object_kind": "push", "before": "a" * 40, "after": "b" * 40, "project_id": 42}
PUSH["commits"] = [{"id": "a" * 40}]


def kinds(path: Path) -> list[tuple[str, str]]:
    found = rows(path, "SELECT payload, kind FROM sightings ORDER BY id")
    return [(json.loads(payload)["object_attributes"]["title"], kind) for payload, kind in found]


async def test_a_test_webhook_that_can_t_be_recorded_at_once_is_still_a_test(path: Path) -> None:
    """And no other webhook is that test instead."""
    poison(path)
    expected = ExpectedTests()
    expected.add("default", 42)
    await append(path, webhook("poison", at=1000, **PUSH), webhook("push", at=2000, **PUSH))
    async with life(path, expected) as made:
        await made.recorded()
        assert kinds(path) == [("push", "push")]
        antidote(path)
        with closing(connect(path)) as db:
            beside.retry_unrecorded(db, None)
        made.recorder.look_again()
        await until(lambda: not kept(path))
    assert kinds(path) == [("push", "push"), ("poison", "hook_test")]


async def test_a_recorder_that_fails_before_the_commit_reads_a_test_as_a_test(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BUSY_PATIENCE_S", 0.02)
    expected = ExpectedTests()
    expected.add("default", 42)
    async with life(path, expected) as made:
        await made.recorded()
        troubles: list[str | None] = []
        monkeypatch.setattr(made.ledger._writer.listener, "trouble", troubles.append)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await append(path, webhook("test", at=1000, **PUSH))
            await until(lambda: troubles)
            await made.kill()
            other.execute("ROLLBACK")
        made.running = asyncio.create_task(made.recorder.run())
        await made.recorded()
    assert kinds(path) == [("test", "hook_test")]


async def test_a_test_webhook_that_waited_is_still_a_test(path: Path) -> None:
    """The monitor has long given up waiting; a push that came after that is a push."""
    expected = ExpectedTests()
    expected.add("default", 42)
    await append(path, webhook("test", at=1000, **PUSH))
    expected.discard("default", 42, now=Millis(NOW + 2000))
    await append(path, webhook("push", at=3000, **PUSH))
    async with life(path, expected) as made:
        await made.recorded()
    found = rows(path, "SELECT kind FROM sightings ORDER BY id")
    assert found == [("hook_test",), ("push",)]


async def test_events_are_numbered_in_the_order_of_arrival(path: Path) -> None:
    """Also those of one key among others, and those of one key with the very same time."""
    ids = [1, 2, 1, 3, 2, 1, 1]
    changes = [
        webhook(n, object_attributes={"id": ident, "action": "update", "title": f"{n}"})
        for n, ident in enumerate(ids)
    ]
    await append(path, *changes)
    await record_all(path)
    sql = "SELECT s.title FROM events e JOIN sightings s ON s.id = e.sighting_id ORDER BY e.id"
    assert [title for (title,) in rows(path, sql)] == [f"{n}" for n in range(len(ids))]


def test_kept_webhooks_are_read_within_bounds(path: Path) -> None:
    """Few at once if they are large; at least one."""
    with closing(connect(path)) as db, transaction(db):
        large = ReceivedWebhook("default", NOW, {}, b"x" * 5 * 2**20)
        unrecorded.keep(db, [FailedWebhook(large, "no")] * 5, now=NOW, due=True)
        assert len(unrecorded.due(db, limit=100)) == 2
        assert len(unrecorded.untried(db, after=2, limit=100)) == 2
        assert len(unrecorded.untried(db, after=4, limit=100)) == 1


@pytest.mark.parametrize("first", ["recorder", "receiver"])
async def test_an_older_copy_of_the_intake_loses_nothing_that_is_appended_to_it(path: Path, first: str) -> None:
    """Its positions are used again, up to and beyond where the recorder was."""
    await append(path, *numbered(range(1, 6)))
    older = intake_path(path).read_bytes()  # closed in order: there is no log
    await append(path, *numbered(range(6, 11)))
    await record_all(path)
    intake_path(path).write_bytes(older)
    if first == "recorder":
        await record_all(path)
    await append(path, *numbered(range(101, 108)))
    async with life(path) as made:
        await made.recorded()
    found = set(titles(path))
    assert found >= {f"{n}" for n in [*range(1, 11), *range(101, 108)]}
