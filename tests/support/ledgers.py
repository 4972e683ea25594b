"""Ledgers for tests that hold for each database: SQLite's file, and a schema of its own in PostgreSQL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from reconciler.ledger.location import Location, PostgresUrl
from reconciler.ledger.storage.database import Database

SERVER = os.environ.get("TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test")
ENGINES = ["sqlite", "postgresql"]


@contextmanager
def ledger_location(engine: str, folder: Path) -> Iterator[Location]:
    """A place for a ledger, where there is none yet. In PostgreSQL it is removed at the end."""
    if engine == "sqlite":
        yield folder / "ledger.db"
        return
    name = f"test_{secrets.token_hex(6)}"
    try:
        with psycopg.connect(SERVER, autocommit=True, connect_timeout=5) as server:
            server.execute(f'CREATE SCHEMA "{name}"')
            yield PostgresUrl(f"{SERVER}?options={quote(f'-c search_path={name}')}")
            server.execute(f'DROP SCHEMA "{name}" CASCADE')
    except psycopg.OperationalError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no PostgreSQL at {SERVER}: {error}")


@contextmanager
def nothing_kept(db: Database) -> Iterator[None]:
    """Undo what the block did: the next example begins with an empty ledger."""
    db.begin()
    try:
        yield
    finally:
        db.rollback()
