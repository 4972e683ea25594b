"""The tables, as migrations that run when a ledger is opened, in the order of their numbers.

Times are text: UTC, ISO 8601 with milliseconds, ending in `Z`, so that they sort and read well. JSON is kept
as JSON text. Never change a migration that was released: add one.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from reconciler.ledger.storage.sql import Sql

migrations = Migrations("gitlab-reconciler")

OPEN = "state IN ('pending', 'retrying')"
"""What makes a delivery open, letter for letter as in the partial indexes, so that SQLite may use them."""

TIME = "'[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*Z'"
"""A time as the ledger writes it, for GLOB."""

IS_TIME = Sql(f"GLOB {TIME}", postgresql="~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T.*Z$'")
"""Whether a text is one."""

UNREAD = "watched_until IS NULL AND (trouble IS NOT NULL OR last_read_at IS NULL)"
"""What makes a source one that is not read, letter for letter as in its partial index."""


def run(db: Database, *statements: str) -> None:
    """Run SQL statements one after the other."""
    for statement in statements:
        db.execute(statement)
