"""A damaged ledger is repaired where nothing is lost, and left as it is where something is."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerInUse
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage import schema
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.damage import beyond_repair, is_noted, note_beyond_repair, note_damage
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep.backup import restore
from reconciler.ledger.upkeep.repair import look, repair
from reconciler.ledger.views.search import index_step
from tests.support.damage import overwrite, pages_of
from tests.support.filled import filled

EVENTS = 300


def named(kind: str) -> list[str]:
    db = SqliteDatabase(sqlite3.connect(":memory:", isolation_level=None))
    schema.upgrade(db)
    return [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = ?", (kind,))]


WORDS = [name for name in named("table") if name.startswith("search_")]
TABLES = [name for name in named("table") if not name.startswith("search")]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "ledger.db"
    with closing(connect(path)) as db:
        db.execute("INSERT INTO destinations (id, name, ordering, active) VALUES (1, 'a', 'none', 1)")
    filled(path, EVENTS, routes=[Route(1, "none", lambda _: True)])
    with closing(connect(path)) as db, transaction(db):
        index_step(db)
    return path


@pytest.fixture
def ledger(tmp_path: Path, sound: Path) -> Path:
    path = tmp_path / "ledger.db"
    path.write_bytes(sound.read_bytes())
    return path


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything that is in the tables, and was not made of something else."""
    with closing(sqlite3.connect(path)) as db:
        wanted = [table for table in TABLES if table != "_sqlite_migrations"]
        return {table: sorted(db.execute(f"SELECT * FROM {table}"), key=repr) for table in wanted}


def schema_of(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master")}


@pytest.mark.parametrize("name", [*named("index"), *WORDS, "sighting_hashes"])
def test_what_is_made_of_the_tables_is_made_anew(ledger: Path, sound: Path, name: str) -> None:
    overwrite(ledger, pages_of(ledger, name))
    damaged = ledger.read_bytes()
    aside = repair(ledger)
    assert aside is not None
    assert aside.read_bytes() == damaged
    assert content(ledger) == content(sound)
    assert schema_of(ledger) == schema_of(sound)
    assert repair(ledger) is None
    with closing(connect(ledger)) as db, transaction(db):
        index_step(db)
        assert db.execute("SELECT count(*) FROM search WHERE search MATCH 'kind:note'").fetchone() == (EVENTS,)
    assert {file.name for file in ledger.parent.iterdir()} == {"ledger.db", "ledger.db.lock", aside.name}


@pytest.mark.parametrize("name", ["events", "sightings", "deliveries", "meta", "_sqlite_migrations", "sqlite_schema"])
def test_where_a_part_is_lost_nothing_is_changed(ledger: Path, name: str) -> None:
    overwrite(ledger, pages_of(ledger, name)[-1:])
    damaged = ledger.read_bytes()
    with pytest.raises(LedgerDamaged, match="restore a backup") as refused:
        repair(ledger)
    assert str(ledger) in str(refused.value)
    assert name in str(refused.value) or name in ("_sqlite_migrations", "sqlite_schema")
    assert ledger.read_bytes() == damaged
    assert {file.name for file in ledger.parent.iterdir()} == {"ledger.db", "ledger.db.lock"}


def test_a_sound_one_stays_as_it_is_and_its_note_goes(ledger: Path) -> None:
    with closing(connect(ledger)) as db, transaction(db):
        note_damage(db, "seen")
        note_beyond_repair(db, "lost")
    assert repair(ledger) is None
    with closing(connect(ledger)) as db:
        assert not is_noted(db)
        assert beyond_repair(db) is None


def test_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such file"):
        repair(tmp_path / "ledger.db")
    (tmp_path / "ledger.db").write_text("hello" * 1000)
    with pytest.raises(LedgerError, match="no SQLite database"):
        repair(tmp_path / "ledger.db")


def test_not_beside_a_service(ledger: Path) -> None:
    with only_service(ledger), pytest.raises(LedgerInUse):
        repair(ledger)


def test_what_an_earlier_version_wrote_is_not_taken_for_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        schema.migrations.apply(SqliteDatabase(conn).utils, stop_before="0010_events")
    overwrite(path, pages_of(path, "events_by_time"))
    with pytest.raises(LedgerError, match="another version"):
        repair(path)


@pytest.mark.parametrize("name", named("index"))
def test_a_start_sees_where_indexes_begin_and_end(ledger: Path, name: str) -> None:
    overwrite(ledger, pages_of(ledger, name))
    with pytest.raises((sqlite3.DatabaseError, LedgerError)), closing(connect(ledger, readonly=True)) as db:
        look(db)


def test_a_start_looks_at_a_sound_one_and_goes_on(ledger: Path) -> None:
    with closing(connect(ledger, readonly=True)) as db:
        look(db)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(".lock")}


def test_a_repair_that_fails_at_its_end_leaves_the_ledger_as_it_was(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwrite(ledger, pages_of(ledger, "events_by_time"))
    before = files(ledger.parent)

    rename = os.rename

    def broken(source: str, target: str) -> None:
        if Path(target) != ledger:
            rename(source, target)
            return
        assert ledger.read_bytes() == before[ledger.name]  # also who is killed here leaves a ledger
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(LedgerError, match="Input/output error"):
        repair(ledger)
    assert files(ledger.parent) == before
    monkeypatch.undo()
    assert repair(ledger) is not None


def test_a_restore_that_fails_at_its_end_loses_no_commit(
    ledger: Path, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed(ledger)
    assert ledger.with_name("ledger.db-wal").stat().st_size
    steps = []

    def broken(_source: object, target: object) -> None:
        steps.append(str(target))
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
            assert db.execute("SELECT count(*) FROM meta WHERE name = 'last commit'").fetchone() == (1,)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(LedgerError, match="Input/output error"):
        restore(sound, ledger)
    assert steps == [str(ledger)]
    monkeypatch.undo()
    with closing(sqlite3.connect(ledger)) as db:
        assert db.execute("SELECT count(*) FROM meta WHERE name = 'last commit'").fetchone() == (1,)


def test_a_restored_ledger_does_not_take_over_the_log_of_the_one_before(ledger: Path, sound: Path) -> None:
    crashed(ledger)
    _, first = restore(sound, ledger)
    _, second = restore(sound, ledger)
    with closing(sqlite3.connect(ledger)) as db:
        assert db.execute("SELECT count(*) FROM meta WHERE name = 'last commit'").fetchone() == (0,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert first is not None
    assert second not in (None, first)
    with closing(sqlite3.connect(first)) as db:
        assert db.execute("SELECT count(*) FROM meta WHERE name = 'last commit'").fetchone() == (1,)


def crashed(ledger: Path) -> None:
    """Commit something, and leave it in the log, as a process does that is killed."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("INSERT INTO meta VALUES ('last commit', '')")
        left = {file: file.read_bytes() for file in (ledger, ledger.with_name(f"{ledger.name}-wal"))}
    for file, held in left.items():
        file.write_bytes(held)


def test_an_index_of_somebody_else_s_is_not_looked_at(ledger: Path) -> None:
    with closing(connect(ledger)) as db:
        db.execute("CREATE INDEX [their own] ON events (lower(kind), kind || '-') WHERE kind > ''")
    with closing(connect(ledger, readonly=True)) as db:
        look(db)
    overwrite(ledger, pages_of(ledger, "their own"))
    assert repair(ledger) is not None
    with closing(connect(ledger, readonly=True)) as db:
        look(db)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can do it for somebody else")
def test_it_goes_on_belonging_to_whom_it_belonged(ledger: Path) -> None:
    os.chown(ledger, 65534, 65534)
    overwrite(ledger, pages_of(ledger, "events_by_time"))
    aside = repair(ledger)
    assert aside is not None
    found = ledger.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o600)
