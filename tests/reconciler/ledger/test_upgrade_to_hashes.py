"""The upgrade that finds sightings by hashes, of a ledger as 0.1.0 left it: all of it, or nothing."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.recording.reported import ONE_KNOWN
from reconciler.ledger.storage import hashes, schema
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.sqlite import SqliteDatabase
from tests.support.released_ledger import FOLDER

UPGRADE = "0013_hashes"
SIGHTINGS = "SELECT id, source, source_id, key, happened_at FROM sightings ORDER BY id"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    path.write_bytes(gzip.decompress((FOLDER / "0.1.0.db.gz").read_bytes()))
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        schema.migrations.apply(SqliteDatabase(conn).utils, stop_before=UPGRADE)
        # More than one page of each table, and text that is no UTF-8.
        conn.executescript(
            """
            WITH RECURSIVE n (n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM n WHERE n < 4000)
            INSERT INTO sightings (id, event_id, source, source_id, key, happened_at, precision, seen_at, kind,
                                   payload_sha, headers, payload)
            SELECT n, 1, 'webhook:default', 'delivery ' || n, 'push:1:' || n, '2026-11-24T10:00:00.000Z', 'received',
                   '2026-11-24T10:00:00.000Z', 'push', 'x', '{}', '{}' FROM n;
            UPDATE sightings SET key = CAST(x'ff' AS TEXT), happened_at = 'noon' WHERE id = 4000;
            """
        )
    return path


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as conn:
        conn.text_factory = lambda text: text.decode("utf-8", "replace")
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return list(conn.iterdump())


def is_upgraded(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as conn:
        return UPGRADE in schema.applied(SqliteDatabase(conn))


def finds_each_sighting(path: Path) -> bool:
    with closing(connect(path)) as db:
        rows = db.execute(f"SELECT * FROM ({SIGHTINGS}) WHERE id <> 4000").fetchall()
        assert len(rows) > 3000
        for _, source, source_id, _, _ in rows:
            [found] = db.execute(ONE_KNOWN, (hashes.id_hash(source, source_id),)).fetchall()
            assert found[:2] == (source, source_id)
        by_key = "SELECT sighting_id FROM sighting_hashes WHERE key_hash = ?"
        return all((ident,) in db.execute(by_key, (hashes.key_hash(key),)) for ident, _, _, key, _ in rows)


def test_each_sighting_is_found(ledger: Path) -> None:
    assert finds_each_sighting(ledger)
    with closing(connect(ledger)) as db:
        count = "SELECT count(*) FROM sightings s JOIN sighting_hashes h ON h.sighting_id = s.id"
        assert db.execute(count).fetchone() == db.execute("SELECT count(*) FROM sightings").fetchone()
        assert db.execute("SELECT happened_ms FROM sighting_hashes WHERE sighting_id = 4000").fetchone() == (0,)
        db.execute("DELETE FROM sightings WHERE id >= 1000")
        assert db.execute("SELECT count(*) FROM sighting_hashes WHERE sighting_id >= 1000").fetchone() == (0,)


def _upgrade_until(path: Path, statement: str) -> None:
    """Kill this process when the upgrade begins a statement."""

    def look(sql: str) -> None:
        if sql.strip().startswith(statement):
            os.kill(os.getpid(), signal.SIGKILL)

    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA cache_size = 20")  # pages go to the file's log before the commit
    conn.set_trace_callback(look)
    schema.migrations.apply(SqliteDatabase(conn).utils)


@pytest.mark.parametrize(
    "statement",
    ["CREATE INDEX sighting_hashes_by_moment", "DROP INDEX sightings_by_moment", "COMMIT"],
)
def test_a_kill_leaves_the_old_ledger(ledger: Path, statement: str) -> None:
    before = content(ledger)
    process = multiprocessing.get_context("spawn").Process(target=_upgrade_until, args=(ledger, statement))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not is_upgraded(ledger)
    assert content(ledger) == before
    assert finds_each_sighting(ledger)


def test_a_full_disk_leaves_the_old_ledger(ledger: Path) -> None:
    before = content(ledger)
    with closing(sqlite3.connect(ledger, isolation_level=None)) as conn:
        pages = conn.execute("PRAGMA page_count").fetchone()[0]
        for more in (0, 10, 30):
            conn.execute(f"PRAGMA max_page_count = {pages + more}")
            with pytest.raises(sqlite3.OperationalError, match="full"):
                schema.migrations.apply(SqliteDatabase(conn).utils)
    assert not is_upgraded(ledger)
    assert content(ledger) == before
    assert finds_each_sighting(ledger)
