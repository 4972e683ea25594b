"""Ledgers for tests that hold for each database: SQLite's file, and a schema of its own in PostgreSQL."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.scratch import scratch_ledger
from reconciler.location import Location, PostgresUrl
from tests.support.clusters import USER, Cluster

ENGINES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
"""The databases, for tests that hold for each."""
SERVER = os.environ.get("TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test")


@contextmanager
def ledger_location(engine: str, folder: Path, *, fresh: bool = False) -> Iterator[Location]:
    """A place for a ledger: a path, or a schema of its own in PostgreSQL.

    Making its tables takes a second there, so it is one that an earlier test used, emptied: `fresh` if there must be
    no tables yet, or if the test's statistics must not be left to another one.
    """
    if engine == "sqlite":
        yield folder / "ledger.db"
        return
    if fresh:
        with scratch_ledger(server(), prefix="test") as url:
            yield url
        return
    url = _POOL.pop() if _POOL else _made()
    yield url
    if _emptied(url):
        _POOL.append(url)


@cache
def server() -> PostgresUrl:
    """A database to use: the one that is named, or that runs on this machine, or one that is started now. Skips if
    there is none, but not in CI.
    """
    try:
        psycopg.connect(SERVER, connect_timeout=5).close()
    except psycopg.OperationalError:
        if "TEST_POSTGRESQL" in os.environ:
            raise
        own = Cluster()  # or skips
        _MADE.callback(own.remove)
        own.make()
        own.start(fsync="off")
        return PostgresUrl(f"postgresql://{USER}@{own.address}/postgres")
    return PostgresUrl(SERVER)


_POOL: list[PostgresUrl] = []
_MADE = ExitStack()
atexit.register(_MADE.close)

_OBJECTS = """
    SELECT 'relation', relname::text, relkind::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace
    UNION ALL
    SELECT 'function', proname::text, md5(prosrc) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
    UNION ALL
    SELECT 'trigger', tgname::text, tgrelid::regclass::text FROM pg_trigger
     WHERE NOT tgisinternal
       AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace)
    UNION ALL
    SELECT 'column', attname::text, attrelid::regclass::text FROM pg_attribute
     WHERE attnum > 0 AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace)
"""
_MADE_OBJECTS: set[tuple[str, ...]] = set()

# session_replication_role = replica: without triggers, and without looking at what refers to a row. A process that
# was killed may have left a statement behind that the server still works at.
_DELETE_ALL = """
    SET lock_timeout = '2s';
    SET session_replication_role = replica;
    DO $$ DECLARE one record; BEGIN
        PERFORM pg_terminate_backend(pid, 2000) FROM pg_stat_activity
          WHERE application_name = current_schema() AND pid <> pg_backend_pid();
        FOR one IN SELECT tablename AS name FROM pg_tables
                    WHERE schemaname = current_schema() AND tablename <> 'migrations' LOOP
            EXECUTE format('DELETE FROM %I', one.name);
        END LOOP;
        FOR one IN SELECT sequencename AS name, start_value FROM pg_sequences WHERE schemaname = current_schema() LOOP
            PERFORM setval(one.name::regclass, one.start_value, false);
        END LOOP;
        INSERT INTO meta VALUES ('program', ''), ('ledger_id', left(md5(random()::text), 12));
    END $$
"""


def _made() -> PostgresUrl:
    made = _MADE.enter_context(scratch_ledger(server(), prefix="test"))
    with psycopg.connect(made.value) as conn:
        [schema] = conn.execute("SELECT current_schema()").fetchone() or [""]
    url = PostgresUrl(f"{made.value}&application_name={schema}")  # so that its connections can be found
    connect(url).close()
    if not _MADE_OBJECTS:
        _MADE_OBJECTS.update(_objects(url))
    return url


def _objects(url: PostgresUrl) -> set[tuple[str, ...]]:
    with psycopg.connect(url.value, autocommit=True) as conn:
        return {tuple(row) for row in conn.execute(_OBJECTS)}


def _emptied(url: PostgresUrl) -> bool:
    """Empty a ledger for the next test. False if this one has changed more than rows, or still uses it."""
    try:
        with psycopg.connect(url.value, autocommit=True) as conn:
            if _objects(url) != _MADE_OBJECTS:
                return False
            conn.execute(_DELETE_ALL)
    except psycopg.Error:
        return False
    return True


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
