"""What tests see of a ledger and change in it, beside the service that has it: in SQLite and in PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from reconciler.ledger.errors import LedgerMissing
from reconciler.ledger.intake import postgresql_rows, rows
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.recording.place import progress
from reconciler.ledger.storage.connection import connect, opened
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.location import Location, PostgresUrl


class Looker:
    """Reads a ledger. In PostgreSQL it does so on one connection: making one costs more than a query."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._server: Database | None = None
        self._lock = threading.Lock()

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query. One for both databases, or an `Sql`."""
        with self._open() as db:
            return [tuple(row) for row in db.execute(sql, parameters)]

    def appended(self) -> tuple[str, int]:
        """Which intake it is, and the position of the last webhook in it; 0 if none was appended.

        In PostgreSQL also if all were removed: they were recorded.
        """
        if isinstance(self.location, PostgresUrl):
            with self._open() as db:
                last = db.execute("SELECT max(position) FROM intake").fetchone()[0]
                return postgresql_rows.intake_id(db), last or 0
        path = intake_path(self.location)
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as intake:
            return intake.execute("SELECT id FROM intake").fetchone()[0], rows.last_position(intake)

    def has_recorded(self, intake_id: str, last: int) -> bool:
        """Whether an intake was read up to a position."""
        try:
            with self._open() as db:
                found = progress(db)
        except (sqlite3.OperationalError, LedgerMissing):  # not made yet, or moved
            return False
        return found is not None and found.intake_id == intake_id and found.through >= last

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    @contextmanager
    def _open(self) -> Iterator[Database]:
        if isinstance(self.location, PostgresUrl):
            with self._lock:
                if self._server is None:
                    self._server = connect(self.location, readonly=True)
            yield self._server
            return
        # Without the ledger's own checks: a test may have damaged or moved the file.
        with closing(sqlite3.connect(f"file:{self.location}?mode=ro", uri=True)) as file:
            yield SqliteDatabase(file)


def change(location: Location, *statements: str) -> None:
    """Change a ledger as somebody with a database client may, whoever has it."""
    with opened(location) as db:
        for statement in statements:
            db.execute(statement)


def refuse(location: Location, payload: str) -> None:
    """From now on the ledger refuses each sighting with a payload that is LIKE this."""
    if isinstance(location, PostgresUrl):
        change(
            location,
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'not wanted' USING ERRCODE = 'check_violation'; END $$",
            "CREATE TRIGGER refusing BEFORE INSERT ON sightings FOR EACH ROW "
            f"WHEN (NEW.payload LIKE '{payload}') EXECUTE FUNCTION refuse()",
        )
        return
    change(
        location,
        f"CREATE TRIGGER refusing BEFORE INSERT ON sightings WHEN NEW.payload LIKE '{payload}' "
        "BEGIN SELECT RAISE(ABORT, 'not wanted'); END",
    )


def accept(location: Location) -> None:
    """Undo `refuse`."""
    if isinstance(location, PostgresUrl):
        change(location, "DROP TRIGGER refusing ON sightings", "DROP FUNCTION refuse()")
    else:
        change(location, "DROP TRIGGER refusing")


@contextmanager
def locked(location: Location) -> Iterator[Callable[[], None]]:
    """Nobody else can write to the ledger until the block ends, or calls what it is given. A service that starts
    meanwhile can't use it yet.
    """
    if isinstance(location, PostgresUrl):
        with opened(location) as db:
            db.begin()
            is_over = threading.Event()

            def speak() -> None:  # one that is silent for seconds is ended
                while not is_over.wait(0.5):
                    db.execute("SELECT 1")

            speaking = threading.Thread(target=speak)
            speaking.start()

            def unlock() -> None:
                is_over.set()
                speaking.join()
                if db.in_transaction:
                    db.rollback()

            try:
                yield unlock
            finally:
                unlock()
        return
    with closing(sqlite3.connect(location, isolation_level=None)) as file:
        file.execute("CREATE TABLE mine (x)")  # so that the tables are still to be made
        file.execute("BEGIN IMMEDIATE")
        yield file.rollback


INTEGRITY = Sql("PRAGMA integrity_check", postgresql="SELECT 'ok'  -- the server looks after that")
LAST_INDEXED = Sql("SELECT max(rowid) FROM search", postgresql="SELECT max(event_id) FROM search")
DAMAGED_INDEX = Sql("DELETE FROM search_data", postgresql="ALTER TABLE search RENAME TO lost")
"""Changes the search index so that it can't be used."""
