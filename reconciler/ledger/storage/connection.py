"""Opening a ledger: pragmas, migrations, and what SQLite's errors mean."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import overload

from reconciler.ledger.errors import (
    LedgerBehind,
    LedgerBusy,
    LedgerDamaged,
    LedgerError,
    LedgerInUse,
    LedgerMissing,
    LedgerUnavailable,
)
from reconciler.ledger.storage import explaining, meta, schema
from reconciler.ledger.storage.any_text import AnyText
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.files import Files, identity, make_private
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.location import Location, PostgresUrl

PAGE_SIZE = 4096
CHECKPOINT_PAGES = 1000
"""Both measured: see docs/benchmarks.md. Larger pages or rarer checkpoints are no faster and stall longer."""

WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""The size to which the WAL file is truncated after a checkpoint has emptied it."""

BESIDE_PATIENCE_S = 30.0
"""How long a command waits for the service's transaction, which takes milliseconds."""

STARTING_PATIENCE_S = 2.0
"""How long a command waits for a starting service to upgrade the ledger."""
STARTING_PAUSE_S = 0.05

LOOK_S = 20.0
"""How long a part of a service waits for an answer to what it reads: the thread is given back then, and a service
that stops waits for it no longer than that.
"""

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
"""SQLite errors that are about the file or the machine, not about the statement."""

REPAIR = (
    "stop the service and run `gitlab-reconciler repair`: it repairs the file, or says that a backup has to be "
    "restored"
)


@overload
def connect(path: Path, *, patience_s: float = ..., readonly: bool = ...) -> SqliteDatabase: ...
@overload
def connect(path: Location, *, patience_s: float = ..., readonly: bool = ...) -> Database: ...
def connect(path: Location, *, patience_s: float = BESIDE_PATIENCE_S, readonly: bool = False) -> Database:
    """Open a ledger. It is created and upgraded as needed.

    `patience_s` is how long a write transaction waits for another one. With `readonly` nothing is created, upgraded
    or written.

    Raises LedgerError if it can't be used, with what to do.
    """
    if isinstance(path, PostgresUrl):
        db: Database = _server(path).open_server(path, patience_s=patience_s, readonly=readonly)
        return db
    return _open_file(path, patience_s=patience_s, readonly=readonly)


def _open_file(path: Path, *, patience_s: float, readonly: bool) -> SqliteDatabase:
    if readonly and not path.exists():
        raise LedgerError(f"{path}: there is no ledger yet; `gitlab-reconciler serve` makes it")
    try:
        if not readonly:
            path.parent.mkdir(parents=True, exist_ok=True)
            make_private(path)
        before = identity(path)
        target = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
        # Not bound to a thread: a service's commits run on a thread of their own (see writer).
        conn = sqlite3.connect(
            target, uri=True, isolation_level=None, timeout=patience_s, check_same_thread=False, factory=AnyText
        )
    except (OSError, sqlite3.Error) as error:
        raise LedgerUnavailable(f"{path}: can't be opened: {error}") from error
    try:
        db = SqliteDatabase(conn)
        schema.check(db, path, may_upgrade=not readonly)
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
        db.files = files = Files(path)  # now: the first statement opened them all
    except LedgerError:
        conn.close()
        raise
    except (OSError, sqlite3.Error) as error:
        conn.close()
        if isinstance(error, sqlite3.Error):
            raise _unusable(path, error) from error
        raise LedgerUnavailable(f"{path}: can't be opened: {error}") from error
    if before is not None and files.database != before:
        conn.close()
        raise LedgerUnavailable(f"{path}: was replaced while it was being opened: try again")
    return db


def open_as_copy(url: PostgresUrl, *, patience_s: float) -> tuple[Database | None, bool]:
    """Open a ledger in PostgreSQL as a copy of the service, and say whether it is the worker. None if this copy can
    only wait. Raises LedgerError.
    """
    db: Database | None
    db, is_worker = _server(url).open_as_copy(url, patience_s=patience_s)
    return db, is_worker


def open_to_copy(url: PostgresUrl, *, patience_s: float, may_be_unfinished: bool) -> Database | None:
    """Open a ledger in PostgreSQL for `ledger copy`; None if a service has it. Raises LedgerError."""
    held: Database | None = _server(url).open_to_copy(url, patience_s=patience_s, may_be_unfinished=may_be_unfinished)
    return held


def unfit(location: Location) -> str | None:
    """Why a service could not take over a ledger in PostgreSQL from here, if so. Raises LedgerError."""
    if isinstance(location, Path):
        return None
    why: str | None = _server(location).unfit(location)
    return why


def server_problems(location: Location) -> list[str]:
    """What is wrong with the server of a ledger in PostgreSQL, with what to do. Raises LedgerError."""
    if isinstance(location, Path):
        return []
    _server(location)
    from reconciler.ledger.storage import server_check

    return server_check.problems(location)


def _server(url: PostgresUrl) -> ModuleType:
    try:
        from reconciler.ledger.storage import server
    except ImportError as error:
        raise LedgerError(f"{url}: needs `pip install 'gitlab-reconciler[postgresql]'`: {error}") from error
    return server


def there_is(location: Location) -> bool:
    """Whether a ledger was made there. One that can't be reached counts: whoever opens it reports that."""
    if isinstance(location, Path):
        return location.exists()
    try:
        connect(location, readonly=True).close()
    except LedgerMissing:
        return False
    except LedgerError:
        return True
    return True


@contextmanager
def opened(path: Location, *, readonly: bool = False) -> Iterator[Database]:
    """A ledger, open for as long as the block lasts. Errors about its file, or its server, are raised with what to
    do.

    Unless `readonly`, it is created or upgraded first, if no service has it: a service of an earlier version could
    not go on with the new tables. Raises LedgerError.
    """
    if isinstance(path, PostgresUrl):
        with closing(connect(path, readonly=readonly)) as db:
            yield db
        return
    if not readonly:
        _bring_up(path)
    with closing(connect(path, readonly=readonly)) as file:
        try:
            yield file
        except sqlite3.Error as error:
            if not is_trouble(error):
                raise
            raise _unusable(path, error) from error


def _bring_up(path: Path) -> None:
    """Create or upgrade a ledger. Raises LedgerBehind if a service of another version has it."""
    deadline = time.monotonic() + STARTING_PATIENCE_S
    while (behind := _behind(path)) is not None:
        try:
            with only_service(path, make=True):
                connect(path).close()
        except LedgerInUse:
            if time.monotonic() > deadline:
                why = "a service has it now, so that it is left as it is: restart that service with this version"
                raise LedgerBehind(f"{behind}; {why}") from None
            time.sleep(STARTING_PAUSE_S)  # it may be starting, and about to do it


def _behind(path: Path) -> str | None:
    """Why a ledger must be created or upgraded; None if it need not be, or something else is wrong with it."""
    try:
        if not path.exists():
            return f"{path}: there is no ledger yet"
        connect(path, readonly=True).close()
    except LedgerBehind as error:
        return str(error)
    except (LedgerError, OSError):  # whoever opens it will report it
        return None
    return None


@contextmanager
def look_at(path: Location, trouble: Callable[[], str | None]) -> Iterator[Database]:
    """A running service's ledger, for a part of that service to read. `trouble` says why the files at the path are
    not those that the service has open, if so (`Files.trouble`).

    Raises LedgerUnavailable in that case: the content of another file must not be shown as the service's. Otherwise
    as `opened`.
    """
    if (why := trouble()) is not None:
        raise LedgerUnavailable(why)
    with opened(path, readonly=True) as db:
        db.give_up_after(LOOK_S)
        if (why := trouble()) is not None:  # it was replaced meanwhile
            raise LedgerUnavailable(why)
        try:
            yield db
        except db.Error as error:
            if not explaining.is_postgresql(error):
                raise
            raise LedgerError(f"{path}: {explain(error)}") from error


def _unusable(path: Path, error: sqlite3.Error) -> LedgerUnavailable:
    kind = LedgerDamaged if is_damage(error) else LedgerUnavailable
    return kind(f"{path}: {explain(error)}")


def explain(error: BaseException) -> str:
    """A database's error in one line; one of SQLite's in words that say what to do."""
    if explaining.is_postgresql(error):
        return explaining.explain(error)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    advice = {
        sqlite3.SQLITE_FULL: "the disk is full: free some space; nothing that was acknowledged is lost",
        sqlite3.SQLITE_BUSY: "another process holds the write lock: is a long transaction open on this file?",
        sqlite3.SQLITE_READONLY: "the file is read-only: check its owner and mode",
        sqlite3.SQLITE_CANTOPEN: "the file can't be opened: check the folder's owner and mode",
        sqlite3.SQLITE_CORRUPT: f"the file is damaged: {REPAIR}",
        sqlite3.SQLITE_NOTADB: "this file is no SQLite database, or its beginning is damaged: is ledger.path right? "
        "Else stop the service and `restore` a backup",
        sqlite3.SQLITE_IOERR: "the disk reports an error",
        sqlite3.SQLITE_INTERRUPT: "the answer takes too long: ask for less",
    }.get(code)
    return f"{advice} ({error})" if advice else str(error)


def is_busy(error: BaseException) -> bool:
    """Whether it may help to try again in a moment."""
    if isinstance(error, LedgerBusy):
        return True
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def is_trouble(error: BaseException) -> bool:
    """Whether the file, the disk or a lock is at fault, and not the statement."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _TROUBLE


def may_come_right(error: BaseException | None) -> bool:
    """Whether a ledger that can't be opened may become usable without a change to the config."""
    passing = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in passing


def is_damage(error: BaseException) -> bool:
    """Whether a part of the file is damaged. Only reads of that part fail."""
    if isinstance(error, LedgerDamaged):
        return True
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def is_of_search_index(error: BaseException) -> bool:
    """Whether the damage is in the search index, as reported by SQLite's full-text search."""
    cause = error.__cause__ if isinstance(error, LedgerDamaged) else error
    return getattr(cause, "sqlite_errorcode", 0) == sqlite3.SQLITE_CORRUPT_VTAB


def touch(db: Database) -> None:
    """Write something harmless: the commit proves that the ledger can be written."""
    meta.put(db, "ready", "")


@contextmanager
def transaction(db: Database) -> Iterator[Database]:
    """One write transaction. It is on disk when the block ends, or rolled back if the block raises.

    Raises LedgerUnavailable if the ledger can't be written.
    """
    try:
        db.begin()
        try:
            yield db
            db.commit()
        except BaseException:
            if db.in_transaction:
                db.rollback()
            raise
    except sqlite3.Error as error:
        if not is_trouble(error):
            raise
        if isinstance(db, SqliteDatabase) and db.files is not None:
            raise _unusable(db.files.path, error) from error
        raise LedgerUnavailable(explain(error)) from error
