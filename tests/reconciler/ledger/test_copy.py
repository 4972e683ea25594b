"""A ledger that is copied from SQLite to PostgreSQL, or back, has the same content, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.errors import LedgerError, LedgerInUse
from reconciler.ledger.intake.file import intake_path, open_intake
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.intake.places import appender, opener, register
from reconciler.ledger.intake.rows import INSERT, as_row
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.place import Progress, note_progress, progress
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, open_to_serve, opened, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids, next_number
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.upkeep import copy_rows
from reconciler.ledger.upkeep.copy import Copied, Step, copy
from reconciler.ledger.upkeep.copy_check import Difference
from reconciler.ledger.upkeep.copy_tables import MADE_ANEW, OWN, SIGHTINGS, TABLES, columns
from reconciler.ledger.views.search import index_step, matching
from reconciler.location import Location, PostgresUrl
from tests.reconciler.ledger.test_unreadable_rows import GARBAGE, fill, values
from tests.support.filled import filled, made
from tests.support.ledgers import ledger_location
from tests.support.terminal import on_terminal

pytestmark = pytest.mark.postgresql

START = times.from_iso("2026-10-05T08:00:00Z")
NEVER_COPIED = {"migrations", "receivers", "sqlite_sequence", "_sqlite_migrations", "intake"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "from" / "ledger.db"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[PostgresUrl]:
    with ledger_location("postgresql", tmp_path) as location:
        assert isinstance(location, PostgresUrl)
        yield location


def everything(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a ledger but those that each one has of its own; of the lanes, their heads."""
    found = {table.name: everything_of(db, f"SELECT * FROM {table.name} WHERE {table.where}") for table in TABLES}
    found["sighting_hashes"] = everything_of(db, "SELECT * FROM sighting_hashes")
    found["lanes"] = everything_of(db, "SELECT destination_id, lane, event_id, due_at FROM lanes")
    found["next"] = [(next_number(db), event_ids(db)(1))]
    return found


def everything_of(db: Database, sql: str) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in db.execute(sql)), key=repr)


def content(location: Location) -> dict[str, list[tuple[Any, ...]]]:
    with opened(location, readonly=True) as db:
        return everything(db)


def waiting(location: Location) -> list[tuple[int, bytes]]:
    """The webhooks in the intake that are not recorded: positions and bodies."""
    with opened(location, readonly=True) as db:
        reader = opener(location)()
        known = progress(db)
        known = Progress(reader.intake_id) if known is None or known.intake_id != reader.intake_id else known
        try:
            return [
                (one.position, one.webhook.body)
                for one in reader.read(after=0, limit=10_000)
                if not known.has(one.position)
            ]
        finally:
            reader.close()


def webhook(number: int) -> ReceivedWebhook:
    return ReceivedWebhook("default", Millis(START + number), {"X-Gitlab-Event": "Push Hook"}, b'{"n": %d}' % number)


def append(path: Path, count: int) -> str:
    """To the intake beside a ledger. Returns its id."""
    with closing(open_intake(intake_path(path))) as intake:
        intake.conn.executemany(INSERT, [as_row(webhook(number)) for number in range(1, count + 1)])
        return intake.id


def rich(path: Path) -> None:
    """A ledger with a row of everything, pruned events, events in several lanes, and an intake of which a part is
    recorded and a part held.
    """
    with closing(connect(path)) as db:
        with transaction(db):
            fill(db)
        with transaction(db):
            routes = [Route(1, "project", lambda _: True)]
            record(db, list(made(300, at=START)), now=START, routes=routes)
        with transaction(db):  # what is pruned leaves its number
            last = next_number(db) - 1
            db.execute("DELETE FROM deliveries WHERE event_id = ?", (last,))
            db.execute("DELETE FROM sightings WHERE event_id = ?", (last,))
            db.execute("DELETE FROM events WHERE id = ?", (last,))
            db.execute("UPDATE deliveries SET state = 'retrying' WHERE event_id % 7 = 0")
            db.execute("INSERT INTO former_paths VALUES (7, 'Old/Path'), (7, 'old/a'), (8, 'Zé/ß')")
        intake = append(path, 12)
        with transaction(db):
            note_progress(db, Progress(intake, 9, ((3, 4), (7, 7))))


def test_every_table_is_copied_or_made_anew(file: Path, url: PostgresUrl) -> None:
    known = {table.name for table in TABLES} | set(MADE_ANEW) | NEVER_COPIED
    with closing(connect(file)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {name for name in tables if not name.startswith("search_")} - known == set()
    with closing(connect_made(url)) as db:
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        assert {name for (name,) in db.execute(sql)} - known == set()


def connect_made(url: PostgresUrl) -> Database:
    held = open_to_serve(url, patience_s=1)
    assert held is not None
    return held


def test_there_and_back_again(file: Path, url: PostgresUrl, tmp_path: Path) -> None:
    rich(file)
    steps: list[Step] = []
    there = copy(file, url, steps.append)
    assert (there.replaced, there.left_out, there.differences) == (0, 0, [])
    original = content(file)
    assert all(original[table.name] for table in TABLES)
    assert content(url) == original
    assert waiting(url) == waiting(file)
    assert [position for position, _ in waiting(url)] == [3, 4, 7, 10, 11, 12]
    assert there.rows["events"] == len(original["events"])
    assert max(step.done for step in steps) <= steps[0].total

    again = tmp_path / "back" / "ledger.db"
    back = copy(url, again)
    assert sorted(path.name for path in again.parent.iterdir()) == ["ledger.db", "ledger.db.intake", "ledger.db.lock"]
    assert (back.replaced, back.left_out, back.differences) == (0, 0, [])
    assert content(again) == original
    assert waiting(again) == waiting(file)


def test_what_comes_next_in_the_copy(file: Path, url: PostgresUrl) -> None:
    """Numbers go on behind those of the source, also of what was pruned; the search index is filled."""
    rich(file)
    copy(file, url)
    with closing(connect(file)) as one, closing(connect(url)) as other:
        both: tuple[Database, ...] = (one, other)
        for db in both:
            with transaction(db):
                record(
                    db, list(made(1, first=5000, at=START)), now=START, routes=[Route(1, "project", lambda _: True)]
                )
                db.execute(
                    "INSERT INTO runs (project_id, source, purpose, window_from, window_through, started_at, "
                    "finished_at, seen, known, new, requests) VALUES (1, 's', 'poll', '', '', '', '', 0, 0, 0, 0)"
                )
                while index_step(db).more:
                    pass
        assert everything(other) == everything(one)
        assert matching(other, "issue/5000", before=10**9, limit=5) == matching(
            one, "issue/5000", before=10**9, limit=5
        )
    with closing(opener(url)()) as reader:
        before = reader.last_position()
        assert before == 12


@pytest.mark.asyncio
async def test_a_receiver_goes_on_behind_what_was_copied(file: Path, url: PostgresUrl, tmp_path: Path) -> None:
    rich(file)
    copy(file, url)
    back = tmp_path / "back.db"
    copy(url, back)
    for location in (url, back):
        to = appender(location)
        await to.append(webhook(99))
        await to.close()
        assert [position for position, _ in waiting(location)] == [3, 4, 7, 10, 11, 12, 13]


def test_what_postgresql_can_t_hold_is_replaced_and_counted(file: Path, url: PostgresUrl) -> None:
    rich(file)
    with closing(sqlite3.connect(file)) as conn:
        conn.execute("UPDATE sightings SET title = 'a' || char(0) || 'b' WHERE id = 3")
        conn.execute("UPDATE sightings SET author = CAST(x'61ff' AS TEXT) WHERE id = 4")
        conn.execute("UPDATE deliveries SET last_status = 'garbage' WHERE event_id = 1")
        conn.execute("UPDATE attempts SET number = 'garbage' WHERE id = 1")
        conn.execute("UPDATE sightings SET event_id = 999999 WHERE id = 5")
        conn.execute("UPDATE coverage SET project_id = 'garbage'")
        conn.commit()
    done = copy(file, url)
    deliveries = len([row for row in content(url)["deliveries"] if row[0] == 1])
    assert (done.replaced, done.left_out, done.differences) == (3 + deliveries, 2, [])
    with opened(url, readonly=True) as db:
        titles = db.execute("SELECT title FROM sightings WHERE id = 3").fetchone()
        assert (titles[0], db.execute("SELECT author FROM sightings WHERE id = 4").fetchone()[0]) == (
            "a\ufffdb",
            "a\ufffd",
        )
        assert db.execute("SELECT number FROM attempts WHERE id = 1").fetchone()[0] == 0


def test_whatever_cannot_be_read_stops_no_copy(file: Path, url: PostgresUrl) -> None:
    """Garbage in every column at once, but for keys and references: it is copied, or replaced and counted."""
    rich(file)
    keys = {(table.name, column) for table in TABLES for column in table.key} | {("meta", "value")}
    changed = 0
    with closing(sqlite3.connect(file)) as conn:
        for table, column, value in values():
            if (table, column) in keys or table in MADE_ANEW or value != GARBAGE:
                continue
            with suppress(sqlite3.IntegrityError):  # SQLite itself guards this column
                changed += conn.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,)).rowcount > 0
        conn.commit()
    assert changed > 90
    before = {table.name: rows_of(file, table.name) for table in TABLES}
    done = copy(file, url)
    assert (done.differences, done.left_out) == ([], 0)
    assert done.replaced > 1000
    assert {name: count for name, count in done.rows.items() if name not in ("intake", "meta")} == {
        name: count for name, count in before.items() if name != "meta"
    }


def rows_of(location: Location, table: str) -> int:
    with opened(location, readonly=True) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


class Killed(BaseException):
    """As a kill would end it: nothing more is done."""


@pytest.mark.parametrize("is_back", [False, True], ids=["to PostgreSQL", "to SQLite"])
def test_it_goes_on_after_a_kill_between_any_two_parts(
    file: Path, url: PostgresUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    monkeypatch.setattr(copy_rows, "ROWS", 100)
    rich(file)
    source: Location = file
    target: Location = url
    if is_back:
        copy(file, url)
        source, target = url, tmp_path / "back.db"
    seen: set[tuple[str, int]] = set()

    def kill(step: Step) -> None:
        at = (step.table, step.done)
        if step.what == "copying" and at not in seen:
            seen.add(at)
            raise Killed

    done: Copied | None = None
    for _ in range(100):
        with suppress(Killed):
            done = copy(source, target, kill)
            break
    assert done is not None
    assert len(seen) > 15
    assert done.differences == []
    assert content(target) == content(file)
    assert waiting(target) == waiting(file)
    assert done.rows["sightings"] == len(content(file)["sightings"])


def test_a_part_has_a_bounded_number_of_bytes(ledger_at: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(ledger_at, 20)
    monkeypatch.setattr(copy_rows, "BYTES", 2500)
    with opened(ledger_at, readonly=True) as db:
        parts = list(copy_rows.Parts(SIGHTINGS, columns(db, SIGHTINGS.name)).all(db))
    assert [row[0] for part in parts for row in part.rows] == list(range(1, 21))
    assert {len(part.rows) for part in parts} <= {2, 3, 4}


def test_what_was_received_meanwhile_is_copied_by_the_next_try(file: Path, url: PostgresUrl) -> None:
    rich(file)

    def receive(step: Step) -> None:
        if step.table == "attempts":
            append(file, 1)

    done = copy(file, url, receive)
    assert done.differences == [Difference("intake", 7, 6)]
    assert copy(file, url).differences == []
    assert waiting(url) == waiting(file)


def test_an_unfinished_copy_can_t_be_used(file: Path, url: PostgresUrl, tmp_path: Path) -> None:
    rich(file)
    with suppress(Killed):
        copy(file, url, stop_at("sightings"))
    for use in (
        lambda: connect(url).close(),
        lambda: connect_made(url).close(),
        lambda: copy(url, tmp_path / "x.db"),
    ):
        with pytest.raises(LedgerError, match="unfinished copy"):
            use()
    with suppress(Killed):
        copy(file, tmp_path / "other.db", stop_at("sightings"))
    assert not (tmp_path / "other.db").exists()
    copy(file, url)
    connect(url).close()


def test_it_goes_on_after_a_kill_between_the_names_of_its_two_files(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich(file)
    target = tmp_path / "copy.db"
    replace = Path.replace

    def kill(self: Path, to: Path) -> Path:
        if to == target:
            raise Killed
        return replace(self, to)

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(Path, "replace", kill)
        copy(file, target)
    assert intake_path(target).exists()
    assert not target.exists()
    assert copy(file, target).differences == []
    assert content(target) == content(file)
    assert waiting(target) == waiting(file)


def stop_at(table: str) -> Callable[[Step], None]:
    """At the first part of a table; if that has no rows, when it is checked."""

    def stop(step: Step) -> None:
        if step.table == table or (step.what == "checking" and step.table == "meta"):
            raise Killed

    return stop


def test_an_unfinished_copy_goes_on_from_the_same_ledger_only(
    file: Path, ledger_at: Location, tmp_path: Path
) -> None:
    target = ledger_at
    rich(file)
    other = tmp_path / "another" / "ledger.db"
    rich(other)
    with suppress(Killed):
        copy(file, target, stop_at("events"))
    with pytest.raises(LedgerError, match="of another ledger"):
        copy(other, target)
    with closing(connect(file)) as db, transaction(db):
        record(db, list(made(1, first=5000, at=START)), now=START, routes=[])
    with pytest.raises(LedgerError, match="before it was changed"):
        copy(file, target)


def test_a_ledger_with_something_in_it_is_no_target(file: Path, ledger_at: Location, tmp_path: Path) -> None:
    filled(file, 3)
    filled(ledger_at, 1)
    before = content(ledger_at)
    with pytest.raises(LedgerError, match="already"):
        copy(file, ledger_at)
    assert content(ledger_at) == before
    lonely = tmp_path / "lonely.db"
    append(lonely, 1)  # a receiver has begun it
    with pytest.raises(LedgerError, match=r"lonely\.db\.intake: is there already"):
        copy(file, lonely)


def test_neither_may_be_served(file: Path, url: PostgresUrl, tmp_path: Path) -> None:
    filled(file, 3)
    with only_service(file), pytest.raises(LedgerInUse, match=r"`serve`.*stop it first"):
        copy(file, url)
    with closing(connect_made(url)), pytest.raises(LedgerInUse, match=r"`serve`.*stop it first"):
        copy(file, url)
    with receiver_of(url), pytest.raises(LedgerInUse, match=r"receiver \(process"):
        copy(file, url)
    copy(file, url)
    back = tmp_path / "back.db"
    with closing(connect_made(url)), pytest.raises(LedgerInUse):
        copy(url, back)
    with receiver_of(url), pytest.raises(LedgerInUse, match=r"receiver \(process"):
        copy(url, back)
    with only_service(back), pytest.raises(LedgerInUse):
        copy(url, back)
    assert not back.exists()


@contextmanager
def receiver_of(url: PostgresUrl) -> Iterator[None]:
    own = register(url, service=os.getpid())
    own.alive()
    try:
        yield
    finally:
        own.close()


def test_nobody_serves_or_writes_meanwhile(file: Path, url: PostgresUrl) -> None:
    filled(file, 3)
    tried: list[bool] = []

    def look(_: Step) -> None:
        if tried:
            return
        with pytest.raises(LedgerInUse), only_service(file):
            pass
        assert open_to_serve(url, patience_s=1) is None
        with (
            closing(sqlite3.connect(file, timeout=0)) as conn,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            conn.execute("DELETE FROM deliveries")
        tried.append(True)

    copy(file, url, look)
    assert tried


def test_a_source_without_a_ledger(tmp_path: Path) -> None:
    with ledger_location("postgresql", tmp_path, fresh=True) as url:
        assert isinstance(url, PostgresUrl)
        refuse_to_copy(url, tmp_path)


def refuse_to_copy(url: PostgresUrl, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        copy(tmp_path / "none.db", url)
    with pytest.raises(LedgerError, match="there is no ledger"):
        copy(url, tmp_path / "new.db")
    filled(tmp_path / "one.db", 1)
    with pytest.raises(LedgerError, match="another place"):
        copy(tmp_path / "one.db", tmp_path / "x" / ".." / "one.db")
    assert not (tmp_path / "none.db").exists()


CHANGES = {
    "UPDATE sightings SET payload = payload || ' ' WHERE id = 7": Difference("events", 4, 4, 2, "2026-10-05"),
    "UPDATE events SET happened_at = '2026-10-07T00:00:00.000Z' WHERE id = 7": None,
    "DELETE FROM sightings WHERE id = 7": Difference("events", 4, 3, 2, "2026-10-05"),
    "UPDATE deliveries SET state = 'dead' WHERE event_id = 7": Difference("deliveries", 2, 2, 2, "2026-10-05"),
    "INSERT INTO attempts (event_id, destination_id, number, started_at, duration_ms) VALUES (7, 1, 1, '', 1)":
        Difference("deliveries", 2, 3, 2, "2026-10-05"),
    "INSERT INTO coverage VALUES (1, 'pipelines', 'a', 'b')": Difference("coverage", 0, 1),
    "UPDATE meta SET value = 'x' WHERE name = 'ledger_id'": Difference("meta", 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_difference_is_found_and_named(file: Path, ledger_at: Location, change: str) -> None:
    with closing(connect(file)) as db, transaction(db):
        db.execute("INSERT INTO destinations (name, ordering, active) VALUES ('one', 'none', 1)")
    filled(file, 10, at=START, routes=[Route(1, "none", lambda _: True)])

    def spoil(step: Step) -> None:
        if step.what == "copying" and step.table == "deliveries":
            with closing(raw(ledger_at)) as conn:
                conn.execute(change)
                conn.commit()

    done = copy(file, ledger_at, spoil)
    expected = CHANGES[change]
    assert done.differing == (1 if expected is not None else 4), done.differences
    if expected is not None:
        assert done.differences == [expected]
    again = copy(file, ledger_at)
    assert again.differences == done.differences
    with pytest.raises(LedgerError):
        connect(ledger_at, readonly=True)


def raw(location: Location) -> Any:
    import psycopg

    if isinstance(location, PostgresUrl):
        return psycopg.connect(location.value)
    return sqlite3.connect(f"{location}.copying")


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "reconciler", "ledger", "copy", *arguments]
    return subprocess.run(
        words, check=False, capture_output=True, text=True, env={**os.environ, **environ}, timeout=120
    )


def test_the_command(file: Path, url: PostgresUrl, tmp_path: Path) -> None:
    rich(file)
    done = command("--from", f"sqlite:{file}", "--to", "env:THERE", THERE=url.value)
    assert done.returncode == 0, done.stderr
    events = len(content(file)["events"])
    assert f"{events} events" in done.stdout
    assert "The copy has the same content" in done.stdout
    assert "checking events" in done.stderr
    (tmp_path / "url").write_text(f"{url.value}\n")
    done = command("--from", f"file:{tmp_path / 'url'}", "--to", f"sqlite:{tmp_path / 'back.db'}", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["rows"]["events"], told["differing"], told["differences"]) == (0, events, 0, [])
    assert content(tmp_path / "back.db") == content(file)
    done = command("--from", f"sqlite:{file}", "--to", "env:THERE", "--json", THERE=url.value)
    assert (done.returncode, "already" in json.loads(done.stderr.splitlines()[-1])["error"]) == (1, True)


def test_the_command_names_differences(file: Path, url: PostgresUrl) -> None:
    filled(file, 10, at=START)
    with suppress(Killed):
        copy(file, url, stop_at("deliveries"))
    with closing(raw(url)) as conn:
        conn.execute("UPDATE sightings SET payload = '{}' WHERE id = 7")
        conn.execute("DELETE FROM sightings WHERE id = 8")
        conn.commit()
    done = command("--from", f"sqlite:{file}", "--to", "env:THERE", THERE=url.value)
    assert done.returncode == 1, done.stderr
    assert "events of project 2 on 2026-10-05: 4, with other content" in done.stdout
    assert "events of project 3 on 2026-10-05: 4 in the source, 3 in the copy" in done.stdout


def test_its_progress_on_a_terminal(file: Path, tmp_path: Path) -> None:
    filled(file, 3)
    shown = on_terminal("ledger", "copy", "--from", f"sqlite:{file}", "--to", f"sqlite:{tmp_path / 'copy.db'}")
    assert "100%" in shown
    assert "of 15 rows" not in shown
    assert "Copied to" in shown


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mysql://x", "should be sqlite:PATH"),
        ("ledger.db", "should be sqlite:PATH"),
        ("sqlite:", "should be sqlite:PATH"),
        ("env:NO_SUCH_NAME", "NO_SUCH_NAME is not set"),
        ("file:/no/such/file", "can't be read"),
    ],
)
def test_wrong_usage(name: str, said: str) -> None:
    done = command("--from", name, "--to", "sqlite:x.db")
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_the_command_goes_on_after_it_was_really_killed(file: Path, url: PostgresUrl) -> None:
    filled(file, 12_000)
    words = [sys.executable, "-m", "reconciler", "ledger", "copy", "--from", f"sqlite:{file}", "--to", "env:THERE"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "THERE": url.value})
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("copying sightings"):
            break
    running.send_signal(signal.SIGKILL)
    assert running.wait(20) == -signal.SIGKILL
    running.stderr.close()
    done = command("--from", f"sqlite:{file}", "--to", "env:THERE", "--json", THERE=url.value)
    assert done.returncode == 0, done.stderr
    assert "copying meta" not in done.stderr
    assert json.loads(done.stdout)["rows"]["events"] == 12_000
    assert content(url) == content(file)


def test_what_each_has_of_its_own_is_not_copied(file: Path, url: PostgresUrl) -> None:
    rich(file)
    with closing(connect(file)) as there, transaction(there):
        for name in OWN:
            if name not in ("intake", "copying"):
                there.execute(
                    "INSERT INTO meta VALUES (?, 'the source') ON CONFLICT (name) DO UPDATE SET value = 'the source'",
                    (name,),
                )
    copy(file, url)
    with opened(url, readonly=True) as db:
        assert "the source" not in [value for (value,) in db.execute("SELECT value FROM meta")]
