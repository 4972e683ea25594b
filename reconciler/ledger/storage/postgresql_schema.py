"""Making and upgrading the tables in PostgreSQL, and checking which version they have."""

from __future__ import annotations

import re
import secrets

from reconciler import __version__
from reconciler.events import times
from reconciler.ledger.errors import LedgerBehind, LedgerMissing, LedgerVersion
from reconciler.ledger.storage import meta, postgresql_0001
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.migrations import m0014

MIGRATIONS = {
    "0001_ledger": postgresql_0001.STATEMENTS,
    "0002_attempts_by_destination": (m0014.ATTEMPTS_BY_DESTINATION,),
}
"""Never change one that was released: add one."""

TABLES = [name for made in MIGRATIONS.values() for one in made for name in re.findall(r"CREATE TABLE (\w+)", one)]
"""Those of a ledger. Its schema may have others, which are not ours."""

_PROGRAM = "program"


def upgrade(db: Database) -> None:
    """Upgrade the ledger to this program's schema, if it does not have it. Raises LedgerUnavailable."""
    if applied(db) >= MIGRATIONS.keys():
        return
    db.begin()  # others that start now wait here
    try:
        db.execute("CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at text NOT NULL)")
        done = applied(db)
        for name, statements in MIGRATIONS.items():
            if name in done:
                continue
            for statement in statements:
                db.execute(statement)
            db.execute("INSERT INTO migrations VALUES (?, ?)", (name, times.iso(times.now())))
        if meta.get(db, "ledger_id") is None:
            meta.put(db, "ledger_id", secrets.token_hex(6))
        meta.put(db, _PROGRAM, __version__)
        db.commit()
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise


def check(db: Database, where: str, *, may_upgrade: bool) -> None:
    """Refuse a ledger from a later version of this program, and, if it may not be upgraded, one from an earlier
    version or an empty schema.

    Raises LedgerVersion or LedgerBehind, with the versions.
    """
    found, known = applied(db), MIGRATIONS.keys()
    if found - known:
        raise LedgerVersion(
            f"{where}: was written by a later version: its tables are at {max(found)}, and this program "
            f"({__version__}) knows them up to {max(known)}; install that version"
        )
    if may_upgrade or found >= known:
        return
    if not found:
        raise LedgerMissing(f"{where}: there is no ledger yet; `gitlab-reconciler serve` makes it")
    raise LedgerBehind(
        f"{where}: was written by an earlier version: its tables are at {max(found)}, and this program "
        f"({__version__}) needs {max(known)}; `gitlab-reconciler serve` brings it up when it starts"
    )


def applied(db: Database) -> set[str]:
    """The migrations that were applied to a ledger."""
    # Only in the schema that the locks are about: others on the search path may have tables of these names.
    is_there = "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'migrations'"
    if not db.execute(is_there).fetchone():
        return set()
    return {name for (name,) in db.execute("SELECT name FROM migrations")}
