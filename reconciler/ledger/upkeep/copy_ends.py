"""The two ledgers of a copy: nobody serves one of them, or writes to the source, while they are open here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from reconciler.ledger.errors import LedgerError, LedgerInUse
from reconciler.ledger.intake.file import intake_path, look_into, open_intake
from reconciler.ledger.recording.place import progress
from reconciler.ledger.storage import meta, receivers, receivers_table, unfinished
from reconciler.ledger.storage.connection import BESIDE_PATIENCE_S, connect, open_to_copy, there_is, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.files import sync
from reconciler.ledger.storage.lock import only_service
from reconciler.location import Location, PostgresUrl

SILENT_S = 60
"""So long one of the two may have to wait for the other."""


class Target(msgspec.Struct, frozen=True):
    """The ledger that is made. `intake` is the intake's file while it is made; None if it is in the database.
    `finish` is called once everything is there: it closes the ledger.
    """

    db: Database
    intake: Path | None
    finish: Callable[[], None]


@contextmanager
def source(location: Location) -> Iterator[Database]:
    """A ledger that no service has. Nobody writes to it during the block. Raises LedgerError."""
    if not there_is(location):
        raise LedgerError(f"{location}: there is no ledger")
    with _only_service(location), closing(_opened(location, to_copy=False)) as db:
        _refuse_receivers(location, db)
        db.begin()
        try:
            yield db
        finally:
            if db.in_transaction:
                db.rollback()


@contextmanager
def target(location: Location) -> Iterator[Target]:
    """A place for a new ledger, or an unfinished copy. Raises LedgerError.

    A file gets its name when it is complete.
    """
    if isinstance(location, PostgresUrl):
        with closing(_opened(location, to_copy=True)) as db:
            _refuse_receivers(location, db)
            yield Target(db, None, lambda: _forget(db))
        return
    path = location.resolve()
    with _only_service(path):
        part = path.with_name(f"{path.name}.copying")
        with closing(connect(part)) as db:
            _refuse_receivers(path, db)
            _take_back(db, part, path)
            _refuse_what_is_there(path)
            yield Target(db, intake_path(part), lambda: _name(db, part, path))


def _forget(db: Database) -> None:
    """The copy is complete."""
    with transaction(db):
        meta.delete(db, unfinished.NAME)


def _take_back(db: Database, part: Path, path: Path) -> None:
    """If a copy was killed between naming its intake and naming its ledger: undo the first."""
    at = progress(db)
    if at is None or path.exists():
        return
    file = look_into(intake_path(path))
    if file is None:
        return
    file.close()
    if file.id == at.intake_id:
        intake_path(path).replace(intake_path(part))


def _refuse_what_is_there(path: Path) -> None:
    """Raise LedgerError if there is a ledger or an intake."""
    for one in (path, intake_path(path)):
        if one.exists() and one.stat().st_size:
            raise LedgerError(f"{one}: is there already: name another file, or move it away")


def _name(db: Database, part: Path, path: Path) -> None:
    """Give the file of the ledger, and that of the intake, their names."""
    db.close()
    _refuse_what_is_there(path)
    if intake_path(part).exists():
        open_intake(intake_path(part)).close()  # who only reads leaves a log behind
    try:
        for made, final in ((intake_path(part), intake_path(path)), (part, path)):
            if made.with_name(f"{made.name}-wal").exists():
                raise LedgerError(f"{made}: its last changes can't be written into it")
            if made.exists():
                sync(made)
                made.replace(final)
                sync(final.parent)
    except OSError as error:
        raise LedgerError(f"{path}: can't be written: {error.strerror}") from error
    with closing(connect(path)) as named:
        _forget(named)


@contextmanager
def _only_service(location: Location) -> Iterator[None]:
    """In PostgreSQL the connection has the lock."""
    if isinstance(location, PostgresUrl):
        yield
        return
    with only_service(location):
        yield


def _opened(location: Location, *, to_copy: bool) -> Database:
    if isinstance(location, Path):
        return connect(location)
    db = open_to_copy(location, patience_s=BESIDE_PATIENCE_S, may_be_unfinished=to_copy)
    if db is None:
        raise LedgerInUse(f"{location}: a `serve`, or another copy, has this ledger; stop it first")
    for setting in ("idle_session_timeout", "idle_in_transaction_session_timeout"):
        db.execute(f"SET {setting} = '{SILENT_S}s'")
    return db


def _refuse_receivers(location: Location, db: Database) -> None:
    if isinstance(location, Path):
        running = receivers.running(intake_path(location))
    else:
        running = receivers_table.running(db)
    if running:
        raise LedgerInUse(f"{location}: a receiver (process {running[0].pid}) has this ledger; stop it first")
