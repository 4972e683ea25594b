"""The intake's file: a small SQLite database beside the ledger's.

It is a file of its own so that the receiver waits for no lock of the ledger. Bodies are stored as the bytes that
came.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

import structlog

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.exchange import alone, finish, leave_log
from reconciler.ledger.intake.rows import last_position
from reconciler.ledger.storage.connection import explain as storage_explain
from reconciler.ledger.storage.connection import is_damage
from reconciler.ledger.storage.files import Files, make_private

VERSION = 3
PAGE_SIZE = 8192
"""Measured: most webhooks of 4 KB fit into one page (docs/benchmarks.md)."""
WAL_LIMIT_BYTES = 8 * 1024 * 1024
"""The size that the WAL may reach before an append checkpoints it: the longer the WAL, the longer that append waits
(docs/benchmarks.md). The worker does it earlier, if it runs."""
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
    CREATE TABLE IF NOT EXISTS intake (
        id TEXT NOT NULL,
        checked INTEGER NOT NULL DEFAULT 0
    );
    {openings}
    INSERT INTO intake (id) SELECT '{id}' WHERE NOT EXISTS (SELECT 1 FROM intake);
    PRAGMA user_version = {version};
    COMMIT
"""
_OPENINGS = """
    CREATE TABLE IF NOT EXISTS openings (  -- by receivers, until the recorder has looked
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        after INTEGER NOT NULL  -- the last position then
    );
"""
_UPGRADES = {
    1: _OPENINGS,
    2: _OPENINGS
    + """
    INSERT INTO openings (id, after)
        SELECT lower(hex(randomblob(6))), opened_after FROM intake WHERE opened_after IS NOT NULL;
    ALTER TABLE intake DROP COLUMN opened_after;
    """,
}
OPENED = "INSERT INTO openings (id, after) VALUES (?, ?)"

log = structlog.get_logger(__name__)


class IntakeFile:
    """An open intake. Each process, and each thread, opens its own."""

    def __init__(self, conn: sqlite3.Connection, path: Path) -> None:
        row = conn.execute("SELECT id FROM intake").fetchone()
        if row is None:
            raise IntakeUnavailable(f"{path}: has no id, which a person must have removed: move the file away")
        self.conn = conn
        self.id = str(row[0])
        self.files = Files(path)  # now: the first statement opened them all

    def note_opening(self) -> None:
        """A receiver is about to append. If this is an older copy, positions are used again from here on, and only
        the recorder can tell: it knows how far it came. Raises sqlite3.Error.
        """
        self.conn.execute(OPENED, (_new_id(), last_position(self.conn)))

    def renew(self) -> None:
        """Give it another id: its end may be missing, and positions be used again. Raises sqlite3.Error."""
        self.id = _new_id()
        self.conn.execute("UPDATE intake SET id = ?", (self.id,))

    def close(self) -> None:
        """Close it. Never raises."""
        try:
            self.conn.close()
        except sqlite3.Error as error:
            log.debug("intake did not close cleanly", error=str(error))


def intake_path(ledger: Path) -> Path:
    """Where the intake of a ledger is: beside the file itself, not beside a link to it."""
    real = ledger.resolve()
    return real.with_name(f"{real.name}.intake")


def open_intake(path: Path) -> IntakeFile:
    """Open an intake. It is created if there is none. Raises IntakeUnavailable, with what to do."""
    return opening(path, lambda: open_file(path))


def opening(path: Path, open_it: Callable[[], IntakeFile]) -> IntakeFile:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open_it()
    except sqlite3.Error as error:
        raise IntakeUnavailable(f"{path}: {explain(error)}") from error
    except OSError as error:
        raise IntakeUnavailable(f"{path}: can't be opened: {error.strerror}") from error


def look_into(path: Path) -> IntakeFile | None:
    """Open an intake to read it; None if there is none. Raises IntakeUnavailable."""
    if not path.exists():
        return None
    conn: sqlite3.Connection | None = None
    file: IntakeFile | None = None
    try:
        with alone(path):
            conn = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
            if conn.execute("PRAGMA user_version").fetchone()[0]:
                file = IntakeFile(conn, path)
    except sqlite3.Error as error:
        raise IntakeUnavailable(f"{path}: {explain(error)}") from error
    except OSError as error:
        raise IntakeUnavailable(f"{path}: can't be opened: {error.strerror}") from error
    finally:
        if file is None and conn is not None:
            conn.close()
    return file


def open_file(path: Path, *, anew: bool = False) -> IntakeFile:
    """With `anew`, a log that is there without its file is put aside."""
    with alone(path):
        finish(path)
        if anew and not (path.exists() and path.stat().st_size):
            leave_log(path)
        return _open_alone(path)


def _open_alone(path: Path) -> IntakeFile:
    make_private(path)
    conn = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S, check_same_thread=False)
    try:
        version = conn.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise IntakeUnavailable(f"{path}: was written by a later version of this program: install that version")
        conn.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        if not version:  # before anything is written, and never again: it writes to the file each time
            conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA secure_delete = OFF")  # else each body that is trimmed is written again, as zeros
        conn.execute(f"PRAGMA wal_autocheckpoint = {WAL_LIMIT_BYTES // PAGE_SIZE}")
        conn.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        if version in _UPGRADES:
            _upgrade(conn)
        elif not version:
            conn.executescript(_TABLES.format(id=_new_id(), version=VERSION, openings=_OPENINGS))
        return IntakeFile(conn, path)
    except BaseException:
        conn.close()
        raise


def _upgrade(conn: sqlite3.Connection) -> None:
    """Another process may do it at the same time."""
    conn.execute("BEGIN IMMEDIATE")
    [[version]] = conn.execute("PRAGMA user_version")
    for statement in _UPGRADES.get(version, "").split(";"):
        conn.execute(statement)
    conn.execute(f"PRAGMA user_version = {VERSION}")
    conn.execute("COMMIT")


def _new_id() -> str:
    return secrets.token_hex(6)


def is_unusable(error: BaseException) -> bool:
    """Whether the file is damaged, or no database at all."""
    return is_damage(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_NOTADB


def explain(error: sqlite3.Error) -> str:
    """An SQLite error about an intake, in words that say what to do."""
    if is_unusable(error):
        return (
            f"the file is damaged, or is no SQLite database ({error}): the receiver begins another one when it meets "
            "this, at the latest when it is restarted, and keeps the damaged one"
        )
    return storage_explain(error)
