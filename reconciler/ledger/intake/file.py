"""The intake's file: a small SQLite database beside the ledger's.

It is a file of its own so that the receiver waits for no lock of the ledger. Bodies are stored as the bytes that
came.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import structlog

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.storage.connection import explain, is_damage
from reconciler.ledger.storage.files import Files, make_private

VERSION = 1
PAGE_SIZE = 8192
"""Measured: most webhooks of 4 KB fit into one page (docs/benchmarks.md)."""
WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""The size that the WAL may reach before an append checkpoints it. The recorder does that earlier, if it runs."""
PATIENCE_S = 5.0
"""How long a statement waits for another process's lock. The recorder holds it for milliseconds."""

_TABLES = """
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS webhooks (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        received_at TEXT NOT NULL,
        hook TEXT NOT NULL,
        headers TEXT NOT NULL,  -- JSON
        body BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS intake (id TEXT NOT NULL, checked INTEGER NOT NULL DEFAULT 0);
    INSERT INTO intake (id) SELECT '{id}' WHERE NOT EXISTS (SELECT 1 FROM intake);
    PRAGMA user_version = {version};
    COMMIT
"""
_COPY = "INSERT INTO webhooks (received_at, hook, headers, body) VALUES (?, ?, ?, ?)"

log = structlog.get_logger(__name__)


class IntakeFile:
    """An open intake. Each process, and each thread, opens its own."""

    def __init__(self, conn: sqlite3.Connection, path: Path) -> None:
        self.conn = conn
        self.id: str = conn.execute("SELECT id FROM intake").fetchone()[0]
        self.files = Files(path)  # now: the first statement opened them all

    def close(self) -> None:
        """Close it. Never raises."""
        try:
            self.conn.close()
        except sqlite3.Error as error:
            log.debug("intake did not close cleanly", error=str(error))


def intake_path(ledger: Path) -> Path:
    """Where the intake of a ledger is: beside it."""
    return ledger.with_name(f"{ledger.name}.intake")


def open_intake(path: Path) -> IntakeFile:
    """Open an intake. It is created if there is none. Raises IntakeUnavailable, with what to do."""
    return _opening(path, lambda: _open(path))


def open_or_replace(path: Path, damage: sqlite3.Error | None) -> IntakeFile:
    """Open an intake for the receiver. `damage` is what was met in it before.

    A damaged one is kept under another name and replaced, so that webhooks can be acknowledged again; what can still
    be read of it is copied. Raises IntakeUnavailable, with what to do.
    """

    def open_it() -> IntakeFile:
        if damage is not None:
            return _replace(path, damage)
        try:
            return _open(path)
        except sqlite3.DatabaseError as error:
            if not is_unusable(error):
                raise
            return _replace(path, error)

    return _opening(path, open_it)


def _opening(path: Path, open_it: Callable[[], IntakeFile]) -> IntakeFile:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_private(path)
        return open_it()
    except sqlite3.Error as error:
        raise IntakeUnavailable(f"{path}: {explain(error)}") from error
    except OSError as error:
        raise IntakeUnavailable(f"{path}: can't be opened: {error.strerror}") from error


def look_into(path: Path) -> IntakeFile | None:
    """Open an intake to read it; None if there is none. Raises IntakeUnavailable."""
    if not path.exists():
        return None
    try:
        conn = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            return IntakeFile(conn, path) if conn.execute("PRAGMA user_version").fetchone()[0] else None
        except sqlite3.Error:
            conn.close()
            raise
    except sqlite3.Error as error:
        raise IntakeUnavailable(f"{path}: {explain(error)}") from error


def _open(path: Path) -> IntakeFile:
    conn = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S, check_same_thread=False)
    try:
        version = conn.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise IntakeUnavailable(f"{path}: was written by a later version of this program: install that version")
        conn.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute(f"PRAGMA wal_autocheckpoint = {WAL_LIMIT_BYTES // PAGE_SIZE}")
        conn.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        if version < VERSION:
            conn.executescript(_TABLES.format(id=secrets.token_hex(6), version=VERSION))
        return IntakeFile(conn, path)
    except BaseException:
        conn.close()
        raise


def is_unusable(error: BaseException) -> bool:
    """Whether the file is damaged, or no database at all."""
    return is_damage(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_NOTADB


def _replace(path: Path, error: sqlite3.Error) -> IntakeFile:
    """Put a damaged intake aside and begin another one, with what can be read of the damaged one."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}")
    rows = _readable(path)
    for suffix in ("-wal", "-shm", ""):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.rename(aside.with_name(aside.name + suffix))
    make_private(path)
    made = _open(path)
    made.conn.execute("BEGIN IMMEDIATE")
    made.conn.executemany(_COPY, rows)
    made.conn.execute("COMMIT")
    log.error(
        "intake damaged: another one was begun, the damaged file is kept",
        reason=explain(error), at=str(aside), copied=len(rows),
    )  # fmt: skip
    return made


def _readable(path: Path) -> list[tuple[str, str, str, bytes]]:
    """The webhooks that can be read of a damaged intake, up to the first one that can't."""
    rows: list[tuple[str, str, str, bytes]] = []
    try:
        with closing(sqlite3.connect(path)) as conn:
            for received_at, hook, headers, body in conn.execute(
                "SELECT received_at, hook, headers, body FROM webhooks ORDER BY position"
            ):
                if all(isinstance(one, str) for one in (received_at, hook, headers)) and isinstance(body, bytes):
                    rows.append((received_at, hook, headers, body))
    except sqlite3.Error as error:
        log.warning("damaged intake not read to its end", read=len(rows), reason=str(error))
    return rows
