"""The schema: upgrading a ledger to this program's version, and checking which version it has."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlite_utils

from reconciler import __version__
from reconciler.ledger.errors import LedgerBehind, LedgerVersion
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.migrations import (
    IS_TIME,
    OPEN,
    UNREAD,
    m0001,
    m0005,
    m0011,
    m0012,
    m0013,
    m0014,
    migrations,
)
from reconciler.ledger.storage.sqlite import SqliteDatabase

__all__ = [
    "IS_TIME",
    "OPEN",
    "UNREAD",
    "m0001",
    "m0005",
    "m0011",
    "m0012",
    "m0013",
    "m0014",
    "migration_names",
    "migrations",
    "upgrade",
]


def upgrade(db: SqliteDatabase) -> None:
    """Upgrade the ledger to this program's schema, if it does not have it."""
    if not applied(db) >= migration_names():
        migrations.apply(db.utils)
        meta.put(db, _PROGRAM, __version__)


def check(db: SqliteDatabase, path: Path, *, may_upgrade: bool) -> None:
    """Refuse a ledger from a later version of this program, and, if it may not be upgraded, one from an earlier
    version or an empty file.

    Raises LedgerVersion or LedgerBehind, with the versions.
    """
    found, known = applied(db), migration_names()
    if found - known:
        raise LedgerVersion(
            f"{path}: was written by a later version{_by(db)}: its tables are at {max(found)}, and this program "
            f"({__version__}) knows them up to {max(known)}; install that version, or restore a backup from before"
        )
    if may_upgrade or found >= known:
        return
    if not found:
        raise LedgerBehind(no_ledger(path))
    raise LedgerBehind(
        f"{path}: was written by an earlier version{_by(db)}: its tables are at {max(found)}, and this program "
        f"({__version__}) needs {max(known)}; `gitlab-reconciler serve` brings it up when it starts"
    )


def no_ledger(path: Path) -> str:
    """The message for a file without a ledger's tables."""
    return (
        f"{path}: is no ledger, or an empty one: `gitlab-reconciler serve` makes its tables; if there was one here, "
        "`restore` a backup"
    )


def applied(db: SqliteDatabase) -> set[str]:
    """The migrations that were applied to a ledger."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
        return set()
    return {name for (name,) in db.execute("SELECT name FROM _sqlite_migrations")}


@cache
def index_names() -> frozenset[str]:
    """The indexes that this program creates, including SQLite's own for keys. Others may have been added by hand."""
    db = sqlite_utils.Database(memory=True)
    migrations.apply(db)
    return frozenset(name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'"))


@cache
def migration_names() -> frozenset[str]:
    """The migrations that this program has."""
    return frozenset(migration.name for migration in migrations.pending(sqlite_utils.Database(memory=True)))


def _by(db: SqliteDatabase) -> str:
    """The version that wrote the ledger, if it has left its number."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return ""
    version = meta.get(db, _PROGRAM)
    return "" if version is None else f" of gitlab-reconciler ({version})"


_PROGRAM = "program"
