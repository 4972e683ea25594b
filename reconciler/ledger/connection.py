"""Opening a ledger: pragmas, migrations, and the lock that keeps two services off one file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlite_utils import Database

from reconciler.ledger import schema
from reconciler.ledger.errors import LedgerError, LedgerInUse, LedgerUnavailable
from reconciler.ledger.files import Files, identity
from reconciler.ledger.texts import AnyText

PAGE_SIZE = 4096
CHECKPOINT_PAGES = 1000
"""Both measured: see docs/benchmarks.md. Larger pages or rarer checkpoints are no faster and stall longer."""

WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""To what size the WAL file is cut after a checkpoint emptied it."""

BESIDE_PATIENCE_S = 30.0
"""How long a command waits for the service's transaction, which takes milliseconds."""


_TROUBLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_NOTADB,
}
"""SQLite's answers that tell of the file or the machine, not of the statement."""


class Ledger(Database):
    """An open ledger that can be written, and the files that it is in."""

    files: Files


def connect(path: Path, *, patience_s: float = BESIDE_PATIENCE_S, readonly: bool = False) -> Ledger:
    """Open a ledger's file, making and migrating it where needed.

    `patience_s` is how long a statement waits for another process's lock. With `readonly` nothing is made,
    migrated or written.

    Raises LedgerError where the file can't be used, with what to do.
    """
    if readonly and not path.exists():
        raise LedgerError(f"{path}: there is no ledger yet; `gitlab-reconciler serve` makes it")
    try:
        if not readonly:
            path.parent.mkdir(parents=True, exist_ok=True)
            make_private(path)
        before = identity(path)
        target = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
        # Not bound to a thread: a service's commits run on one of their own (see writer).
        conn = sqlite3.connect(
            target, uri=True, isolation_level=None, timeout=patience_s, check_same_thread=False, factory=AnyText
        )
    except (OSError, sqlite3.Error) as error:
        raise LedgerUnavailable(f"{path}: can't be opened: {error}") from error
    try:
        db = Ledger(conn, recursive_triggers=False)
        if not readonly:
            db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
            schema.upgrade(db)
        db.execute("PRAGMA cache_size = -16000")
        db.execute("SELECT 1 FROM events LIMIT 1")
        db.files = Files(path)  # now: the first statement opened them all
    except (OSError, sqlite3.Error) as error:
        conn.close()
        reason = explain(error) if isinstance(error, sqlite3.Error) else f"can't be opened: {error}"
        raise LedgerUnavailable(f"{path}: {reason}") from error
    if before is not None and db.files.database != before:
        conn.close()
        raise LedgerUnavailable(f"{path}: was replaced while it was being opened: try again")
    return db


def look_at(path: Path, trouble: Callable[[], str | None]) -> Ledger:
    """Open a running service's ledger to read it, for a face of that service. `trouble` tells why the files at the
    path are not the ones that the service has open (`Files.trouble`).

    Raises LedgerUnavailable where they are not: what another file says must not be shown as if it were the service's.
    """
    if (why := trouble()) is not None:
        raise LedgerUnavailable(why)
    db = connect(path, readonly=True)
    if (why := trouble()) is not None:  # it was replaced meanwhile
        db.close()
        raise LedgerUnavailable(why)
    return db


def make_private(path: Path) -> None:
    """Make a file that its owner alone may read, where there is none: bodies of events are nobody else's business.

    SQLite gives the files beside it the same mode. A file that is there is not opened: closing it again would take
    away the locks that SQLite has on it in this process (POSIX). Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def explain(error: sqlite3.Error) -> str:
    """An SQLite error in words that say what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    advice = {
        sqlite3.SQLITE_FULL: "the disk is full: free some space; nothing that was acknowledged is lost",
        sqlite3.SQLITE_BUSY: "another process holds the write lock: is a long transaction open on this file?",
        sqlite3.SQLITE_READONLY: "the file is read-only: check its owner and mode",
        sqlite3.SQLITE_CANTOPEN: "the file can't be opened: check the folder's owner and mode",
        sqlite3.SQLITE_CORRUPT: "the file is damaged: stop the service and restore a backup",
        sqlite3.SQLITE_NOTADB: "this file is no SQLite database: is ledger.path right?",
        sqlite3.SQLITE_IOERR: "the disk reports an error",
    }.get(code)
    return f"{advice} ({error})" if advice else str(error)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether trying again in a moment may help."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_trouble(error: BaseException) -> bool:
    """Whether the ledger's file, disk or locks are at fault, not the statement or who wrote it."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _TROUBLE


def may_come_right(error: BaseException | None) -> bool:
    """Whether a ledger that can't be opened may be opened later, without anybody's changing the config."""
    passing = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in passing


def is_damage(error: BaseException) -> bool:
    """Whether a part of the file is damaged, which only meets who reads it."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def touch(db: Database) -> None:
    """Write something harmless: the commit proves that the ledger can be written."""
    db.conn.execute("INSERT INTO meta VALUES ('ready', '') ON CONFLICT (name) DO UPDATE SET value = ''")


def data_version(db: Database) -> int:
    """A number that changes when another process has committed to the ledger."""
    version: int = db.conn.execute("PRAGMA data_version").fetchone()[0]
    return version


@contextmanager
def transaction(db: Database) -> Iterator[Database]:
    """One write transaction: on disk when the block is left, or as if it never began.

    Raises LedgerUnavailable where the ledger can't be written.
    """
    try:
        db.conn.execute("BEGIN IMMEDIATE")
        try:
            yield db
            commit(db)
        except BaseException:
            if db.conn.in_transaction:
                db.conn.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        if is_trouble(error):
            raise LedgerUnavailable(explain(error)) from error
        raise


def commit(db: Database) -> None:
    """Commit, to the files that are at the ledger's path.

    Raises LedgerUnavailable where others are there than were opened, also where that came to be during the commit.
    """
    _verify(db)
    db.conn.execute("COMMIT")
    _verify(db)


def _verify(db: Database) -> None:
    trouble = db.files.trouble() if isinstance(db, Ledger) else None
    if trouble is not None:
        raise LedgerUnavailable(trouble)


@contextmanager
def only_service(path: Path) -> Iterator[None]:
    """Hold the right to serve a ledger. The kernel gives it back however the process ends.

    Raises LedgerInUse where another service holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise LedgerInUse(
                f"{path}: another `serve` (process {owner}) has this ledger; stop it first, or give this one "
                "a ledger.path of its own"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def service_process(path: Path) -> int | None:
    """The process that serves a ledger, or None where none does."""
    try:
        with path.with_name(path.name + ".lock").open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read().strip() or 0) or None
    except (OSError, ValueError):
        return None
    return None
