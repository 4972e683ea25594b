"""The tables: brought to this program's version, and what they are called in SQL."""

from __future__ import annotations

from sqlite_utils import Database

from reconciler.ledger.migrations import OPEN, TIME, UNREAD, m0001, m0005, m0011, migrations

__all__ = ["OPEN", "TIME", "UNREAD", "m0001", "m0005", "m0011", "migration_names", "migrations", "upgrade"]


def upgrade(db: Database) -> None:
    """Bring the ledger to this program's schema; nothing happens where it is there already."""
    migrations.apply(db)


def migration_names() -> set[str]:
    """The migrations that this program knows."""
    return {migration.name for migration in migrations.pending(Database(memory=True))}
