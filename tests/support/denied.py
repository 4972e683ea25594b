"""A connection to a ledger that can't be read, or not be written, for a while."""

from __future__ import annotations

import sqlite3

from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.postgresql import PostgresDatabase
from reconciler.ledger.storage.sqlite import SqliteDatabase

NOBODY = "pg_monitor"
"""A role that every server has, and that may only do what everybody may."""


def deny_reads(db: Database, table: str | None = None) -> None:
    """Whatever is read through this connection fails, or whatever is read from this table."""
    if isinstance(db, SqliteDatabase):

        def decide(_: int, what: str | None, *__: str | None) -> int:
            return sqlite3.SQLITE_DENY if table in (None, what) else sqlite3.SQLITE_OK

        db.conn.set_authorizer(decide)
        return
    allow_reads(db)
    [schema] = db.execute("SELECT current_schema()").fetchone()
    on = f'ON ALL TABLES IN SCHEMA "{schema}"'
    change = f'REVOKE SELECT {on} FROM PUBLIC; REVOKE USAGE ON SCHEMA "{schema}" FROM PUBLIC;'
    if table is not None:
        change = f'GRANT USAGE ON SCHEMA "{schema}" TO PUBLIC; GRANT SELECT {on} TO PUBLIC;'
        change += f'GRANT SELECT ON changes TO PUBLIC; REVOKE SELECT ON "{table}" FROM PUBLIC;'
    db.execute(f"BEGIN READ WRITE; {change} COMMIT; SET ROLE {NOBODY}")


def allow_reads(db: Database) -> None:
    """It can be read again."""
    if isinstance(db, SqliteDatabase):
        db.conn.set_authorizer(None)
    else:
        db.execute("RESET ROLE")


def deny_writes(db: Database) -> None:
    """Nothing can be written through this connection, from its next transaction on."""
    _set_writable(db, "ON")


def allow_writes(db: Database) -> None:
    """It can be written again."""
    _set_writable(db, "OFF")


def _set_writable(db: Database, switch: str) -> None:
    if isinstance(db, PostgresDatabase):
        assert not db.in_transaction, "it would be undone with the transaction"
        db.execute(f"SET default_transaction_read_only = {switch}")
    else:
        db.execute(f"PRAGMA query_only = {switch}")
