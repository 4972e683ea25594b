"""The intake's file: a small SQLite database beside the ledger's.

It is a file of its own so that the receiver waits for no lock of the ledger. Bodies are stored as the bytes that
came.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import structlog

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.rows import INSERT, as_row, last_position, read_after
from reconciler.ledger.storage.connection import explain as storage_explain
from reconciler.ledger.storage.connection import is_damage
from reconciler.ledger.storage.files import Files, identity, make_private, sync

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
_COPY = "INSERT INTO webhooks (position, received_at, hook, headers, body) VALUES (?, ?, ?, ?, ?)"
_COPIED_AT_ONCE = 500
_CHECKED = 1000
"""So many of the oldest webhooks are read when the receiver opens the file: where trimming stops, there is damage."""
_SUFFIXES = ("-wal", "-shm", "")
_OLDEST = "SELECT count(*) FROM (SELECT 1 FROM webhooks ORDER BY position LIMIT ?)"

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
    return _opening(path, lambda: _open(path))


def open_or_replace(path: Path, damage: sqlite3.Error | None) -> IntakeFile:
    """Open an intake for the receiver. `damage` is what was met in it before.

    A damaged one is kept under another name and replaced, so that webhooks can be acknowledged again; what can still
    be read of it is copied. Raises IntakeUnavailable, with what to do.
    """

    def open_it() -> IntakeFile:
        if damage is not None:
            return _replace(path, damage)
        file: IntakeFile | None = None
        try:
            file = _open(path, anew=True)
            file.conn.execute(_OLDEST, (_CHECKED,)).fetchone()
        except sqlite3.DatabaseError as error:
            if file is not None:
                file.close()
            if not is_unusable(error):
                raise
            return _replace(path, error)
        return file

    return _opening(path, open_it)


def _opening(path: Path, open_it: Callable[[], IntakeFile]) -> IntakeFile:
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
        with _alone(path):
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


def _open(path: Path, *, anew: bool = False) -> IntakeFile:
    """With `anew`, a log that is there without its file is put aside."""
    with _alone(path):
        _finish(path)
        if anew and not (path.exists() and path.stat().st_size):
            _leave_log(path)
        return _open_alone(path)


def _open_alone(path: Path) -> IntakeFile:
    make_private(path)
    conn = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S, check_same_thread=False)
    try:
        version = conn.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise IntakeUnavailable(f"{path}: was written by a later version of this program: install that version")
        conn.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        if version < VERSION:  # before anything is written, and never again: it writes to the file each time
            conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA secure_delete = OFF")  # else each body that is trimmed is written again, as zeros
        conn.execute(f"PRAGMA wal_autocheckpoint = {WAL_LIMIT_BYTES // PAGE_SIZE}")
        conn.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        if version < VERSION:
            conn.executescript(_TABLES.format(id=_new_id(), version=VERSION))
        return IntakeFile(conn, path)
    except BaseException:
        conn.close()
        raise


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


def _replace(path: Path, error: sqlite3.Error) -> IntakeFile:
    """Put a damaged intake aside and begin another one, with what can be read of the damaged one.

    The new file is complete and on disk before the damaged one is moved. Nothing is appended to that one meanwhile,
    and if another receiver replaces it first, that is the file which is opened.
    """
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}")
    made = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    damaged = identity(path)
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)) as old:
            _keep_from_appending(old)
            copied, lost = _copy(old, made)
            sync(made)
            with _alone(path):
                if identity(path) == damaged:
                    log.error(
                        "intake damaged: another one is begun, the damaged file is kept",
                        reason=str(error), at=str(aside), copied=copied, lost=lost,
                    )  # fmt: skip
                    _exchange(path, made, aside)
    finally:
        _remove(made)
    return _open(path)


def _keep_from_appending(damaged: sqlite3.Connection) -> None:
    """Take the write lock, if the damage allows that: then nobody can append either. Raises sqlite3.Error."""
    try:
        damaged.execute("BEGIN IMMEDIATE")
    except sqlite3.DatabaseError as error:
        if not is_unusable(error):
            raise


def _exchange(path: Path, made: Path, aside: Path) -> None:
    """Replace an intake. After a kill anywhere in here, the next that opens it finishes this (`_finish`)."""
    made.replace(_replacing(path))
    sync(path.parent)
    for suffix in ("", "-wal", "-shm"):  # the file first: while it is there, the new one does not count
        with contextlib.suppress(FileNotFoundError):
            _beside(path, suffix).rename(_beside(aside, suffix))
    sync(path.parent)
    _finish(path)
    for left in path.parent.glob(f"{path.name}.new-*"):  # of kills, or of a receiver that came too late
        left.unlink(missing_ok=True)


def _finish(path: Path) -> None:
    """Move the new file of `_exchange` to the path, if the damaged one has gone from there. Raises OSError."""
    made = _replacing(path)
    if not made.exists():
        return
    if path.exists():  # a kill came before the damaged file was moved: what was copied may have grown since
        made.unlink()
        return
    _leave_log(path)
    made.rename(path)
    sync(path.parent)


def _replacing(path: Path) -> Path:
    return path.with_name(f"{path.name}.replacing")


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        _beside(path, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process opens an intake in this folder, or replaces one, while the block lasts.

    Whoever opened one file while its log is exchanged would share that log with the next file. Raises OSError.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _leave_log(path: Path) -> None:
    """The log of an intake that was moved without it must not be taken for that of the new file."""
    left = path.with_name(f"{path.name}.left-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}")
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            _beside(path, suffix).rename(_beside(left, suffix))


def copy_after(file: IntakeFile, after: int, made: Path) -> None:
    """Copy the webhooks after a position to a new intake with the same id. Raises sqlite3.Error, IntakeUnavailable.

    Each read is short, so that no log has to grow for it.
    """
    last = last_position(file.conn)
    with closing(open_intake(made)) as new:
        new.conn.execute("PRAGMA synchronous = OFF")  # a crash removes this copy's purpose too
        new.conn.execute("BEGIN IMMEDIATE")
        new.conn.execute("UPDATE intake SET id = ?", (file.id,))
        while after < last and (some := read_after(file.conn, after=after, limit=_COPIED_AT_ONCE)):
            new.conn.executemany(_COPY, [(one.position, *as_row(one.webhook)) for one in some])
            after = some[-1].position
        new.conn.execute("COMMIT")


def _copy(old: sqlite3.Connection, made: Path) -> tuple[int, int]:
    """Copy what can be read of a damaged intake to a new one. Returns how many webhooks were read, and how many not.

    If its id and its last position can be read, the copy is the same intake: what was recorded of it is not recorded
    again.
    """
    copied = lost = after = 0
    with closing(_open(made)) as new:
        new.conn.execute("BEGIN IMMEDIATE")
        before = _identity(old)
        try:
            while some := read_after(old, after=after, limit=_COPIED_AT_ONCE):
                rows = [as_row(one.webhook) for one in some]
                if before is None:
                    new.conn.executemany(INSERT, [row for row in rows if row[-1]])
                else:
                    new.conn.executemany(_COPY, [(one.position, *row) for one, row in zip(some, rows, strict=True)])
                after = some[-1].position
                lost += sum(one.webhook.is_lost for one in some)
                copied += len(some)
        except sqlite3.Error as error:
            log.warning("damaged intake not read to its end", read=copied, reason=str(error))
        if before is not None:
            intake_id, last = before
            new.conn.execute("UPDATE intake SET id = ?", (intake_id,))
            new.conn.execute("DELETE FROM sqlite_sequence WHERE name = 'webhooks'")
            new.conn.execute("INSERT INTO sqlite_sequence VALUES ('webhooks', ?)", (max(last, after),))
        new.conn.execute("COMMIT")
    return copied - lost, lost


def _identity(damaged: sqlite3.Connection) -> tuple[str, int] | None:
    """The id and the last position of a damaged intake; None if they can't be read."""
    try:
        [(intake_id,)] = damaged.execute("SELECT id FROM intake").fetchall()
        return str(intake_id), last_position(damaged)
    except (sqlite3.Error, ValueError):
        return None
