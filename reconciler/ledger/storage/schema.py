"""The tables: brought to this program's version, and what they are called in SQL."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlite_utils import Database

from reconciler import __version__
from reconciler.ledger.errors import LedgerBehind, LedgerVersion
from reconciler.ledger.storage.migrations import OPEN, TIME, UNREAD, m0001, m0005, m0011, m0012, migrations

__all__ = ["OPEN", "TIME", "UNREAD", "m0001", "m0005", "m0011", "m0012", "migration_names", "migrations", "upgrade"]


def upgrade(db: Database) -> None:
    """Bring the ledger to this program's schema; nothing happens where it is there already."""
    if not applied(db) >= migration_names():
        migrations.apply(db)
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_PROGRAM, __version__))


def check(db: Database, path: Path, *, may_upgrade: bool) -> None:
    """Refuse a ledger that a later version of this program brought up, and, where it may not be upgraded, one that
    an earlier version left, or an empty file.

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
    """What is wrong with a file that has none of a ledger's tables, and what to do."""
    return (
        f"{path}: is no ledger, or an empty one: `gitlab-reconciler serve` makes its tables; if there was one here, "
        "`restore` a backup"
    )


def applied(db: Database) -> set[str]:
    """The migrations that a ledger has seen."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
        return set()
    return {name for (name,) in db.execute("SELECT name FROM _sqlite_migrations")}


@cache
def index_names() -> frozenset[str]:
    """The indexes that this program makes, SQLite's own for keys among them. A person may have made others."""
    db = Database(memory=True)
    upgrade(db)
    return frozenset(name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'"))


@cache
def migration_names() -> frozenset[str]:
    """The migrations that this program knows."""
    return frozenset(migration.name for migration in migrations.pending(Database(memory=True)))


def _by(db: Database) -> str:
    """Which version it was, where that one has said so."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return ""
    row = db.execute("SELECT value FROM meta WHERE name = ?", (_PROGRAM,)).fetchone()
    return "" if row is None else f" of gitlab-reconciler ({row[0]})"


_PROGRAM = "program"
