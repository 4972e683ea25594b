"""Ledgers for tests that hold for each database: SQLite's file, and a schema of its own in PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.scratch import scratch_ledger
from reconciler.location import Location, PostgresUrl

SERVER = os.environ.get("TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test")
ENGINES = ["sqlite", "postgresql"]


@contextmanager
def ledger_location(engine: str, folder: Path) -> Iterator[Location]:
    """A place for a ledger, where there is none yet. In PostgreSQL it is removed at the end."""
    if engine == "sqlite":
        yield folder / "ledger.db"
        return
    try:
        psycopg.connect(SERVER, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NOT TESTED: no PostgreSQL at {SERVER}: {error}")
    with scratch_ledger(PostgresUrl(SERVER), prefix="test") as url:
        yield url


NewLedger = Callable[[], AbstractContextManager[Database]]

# session_replication_role = replica: without triggers, and without looking at what refers to a row.
_EMPTY = """
    SET session_replication_role = replica;
    DELETE FROM attempts; DELETE FROM deliveries; DELETE FROM lanes; DELETE FROM destinations;
    DELETE FROM sighting_hashes; DELETE FROM sightings; DELETE FROM events;
    DELETE FROM former_paths; DELETE FROM projects; DELETE FROM meta WHERE name NOT IN ('ledger_id', 'program');
    SELECT setval('event_numbers', 0), setval(pg_get_serial_sequence('destinations', 'id'), 1, false);
    RESET session_replication_role;
"""


@contextmanager
def new_ledgers(engine: str, folder: Path) -> Iterator[NewLedger]:
    """Opens a ledger without events, each time it is called: for tests that need many. In PostgreSQL it is the same
    one, emptied: to make its tables takes a second.
    """
    if engine == "sqlite":

        @contextmanager
        def new() -> Iterator[Database]:
            with TemporaryDirectory(dir=folder) as made, closing(connect(Path(made) / "ledger.db")) as db:
                db.execute("PRAGMA synchronous = OFF")  # nothing is killed here
                yield db

        yield new
        return
    with ledger_location(engine, folder) as location, closing(connect(location)) as opened:
        opened.execute("SET synchronous_commit = off")

        @contextmanager
        def emptied() -> Iterator[Database]:
            if opened.in_transaction:
                opened.rollback()
            opened.execute(_EMPTY)
            yield opened

        yield emptied


@contextmanager
def nothing_kept(db: Database) -> Iterator[None]:
    """Undo what the block did: the next example begins with an empty ledger."""
    db.begin()
    try:
        yield
    finally:
        db.rollback()
