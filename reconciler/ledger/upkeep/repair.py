"""Repairing a damaged ledger.

Indexes can be rebuilt from the tables, and the search index from the events. So a new ledger is made from the tables,
and replaces the damaged one. If a table can't be read to its end, a part of it is lost, and a backup has to be
restored.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerUnavailable
from reconciler.ledger.storage import hashes, schema
from reconciler.ledger.storage.connection import connect, explain, is_damage, transaction
from reconciler.ledger.storage.damage import forget_damage
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep.backup import exchange

RESTORE = "restore a backup (`gitlab-reconciler restore`)"


def look(db: Database) -> None:
    """Read the beginning and the end of each index, which takes a moment. Raises sqlite3.Error if one is damaged."""
    sql = "SELECT name, tbl_name, coalesce(sql, '') FROM sqlite_master WHERE type = 'index'"
    found = [row for row in db.execute(sql).fetchall() if row[0] in schema.index_names()]
    for name, table, made_by in found:
        columns = [column for _, _, column in db.execute(f"PRAGMA index_info({name})")]
        where = "".join(made_by.partition("WHERE ")[1:])  # as written, so that SQLite recognizes that the index fits
        for order in ("", " DESC"):
            by = ", ".join(column + order for column in columns)
            db.execute(f"SELECT 1 FROM {table} INDEXED BY {name} {where} ORDER BY {by} LIMIT 1").fetchone()


def repair(path: Path, report: Callable[[str], None] = lambda _: None) -> Path | None:
    """Check a ledger that no service has, and, if it is damaged, make a new one from its tables.

    Returns where the damaged file is kept; None if nothing is damaged. `report` is called with each step. Raises
    LedgerDamaged if a table is damaged, and LedgerError if the file can't be used at all, or a service has it.
    """
    if not path.exists():
        raise LedgerError(f"{path}: there is no such file")
    path = path.resolve()  # a link stays one: the intake is beside the file itself
    with only_service(path):
        report("checking the ledger")
        try:
            found = _damage(path)
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"{path}: {explain(error)}") from error
        if found is None:
            return None
        report(f"it is damaged: {found}; writing a new one")
        part = path.with_name(path.name + ".repairing")
        try:
            _remove(part)
            with closing(connect(part)) as db:
                _fill(db, path, report)
            return exchange(part, path, "repair")
        except sqlite3.Error as error:
            if is_damage(error):
                raise LedgerDamaged(f"{path}: can't be repaired: {RESTORE} ({error})") from error
            raise LedgerUnavailable(f"{part}: {explain(error)}") from error
        except OSError as error:
            raise LedgerUnavailable(f"{part}: can't be written: {error.strerror}") from error
        finally:
            _remove(part)


def _damage(path: Path) -> str | None:
    """The first damage in the file; None if there is none, and then its notes about damage are removed."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as conn:
        try:
            found: str = conn.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                return found.replace("*** in database main ***\n", "").splitlines()[0]
            if not schema.applied(SqliteDatabase(conn)):
                raise LedgerError(schema.no_ledger(path))
            conn.execute("INSERT INTO search (search) VALUES ('integrity-check')")
            forget_damage(SqliteDatabase(conn))
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            return str(error)
    return None


def _fill(db: SqliteDatabase, path: Path, report: Callable[[str], None]) -> None:
    """Copy a damaged ledger's tables into an empty one, without reading its indexes."""
    derived = db.execute(_DERIVED).fetchall()
    tables = db.execute(_TABLES).fetchall()
    db.execute("ATTACH ? AS old", (f"{path.absolute().as_uri()}?mode=rw",))
    _refuse_others(db, path)
    with transaction(db):
        for kind, name, _ in derived:
            db.execute(f"DROP {kind} {name}")
        for (table,) in tables:
            report(f"copying {table}")
            _copy(db, table, path)
        report("building the indexes")
        hashes.fill(db.conn)
        for *_, made_by in derived:
            db.execute(made_by)
        forget_damage(db)
    db.execute("DETACH old")


_TABLES = """
    SELECT name FROM sqlite_master
     WHERE type = 'table' AND name NOT IN ('_sqlite_migrations', 'sighting_hashes') AND substr(name, 1, 6) <> 'search'
"""
"""All but the hashes, which are made of the sightings, and the search index, which a service fills again in the
background."""
_DERIVED = """
    SELECT type, name, sql FROM sqlite_master
     WHERE type IN ('index', 'trigger') AND sql NOT NULL AND tbl_name <> '_sqlite_migrations'
"""


def _refuse_others(db: SqliteDatabase, path: Path) -> None:
    """Raise LedgerError if the damaged ledger has other tables than this program."""
    try:
        found = {name for (name,) in db.execute("SELECT name FROM old._sqlite_migrations NOT INDEXED")}
    except sqlite3.Error as error:
        raise LedgerDamaged(f"{path}: its list of tables is damaged: {RESTORE}") from error
    if found != schema.migration_names():
        raise LedgerError(f"{path}: was written by another version: that one can repair it, or {RESTORE}")


def _copy(db: SqliteDatabase, table: str, path: Path) -> None:
    columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
    db.execute(f"DELETE FROM main.{table}")
    try:
        # With a WHERE, since otherwise SQLite would copy pages of indexes too.
        sql = f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM old.{table} {_itself(db, table)} WHERE 1"
        db.execute(sql)
    except sqlite3.Error as error:
        if not (is_damage(error) or isinstance(error, sqlite3.IntegrityError)):
            raise
        raise LedgerDamaged(f"{path}: a part of the table {table} is lost: {RESTORE} ({error})") from error


def _itself(db: SqliteDatabase, table: str) -> str:
    """How a query reads the table's own pages. A table without row ids is the index of its primary key, and NOT
    INDEXED would let SQLite read another index that has all columns.
    """
    keys = [name for _, name, _, origin, _ in db.execute(f"PRAGMA main.index_list({table})") if origin == "pk"]
    (made_by,) = db.execute("SELECT sql FROM main.sqlite_master WHERE name = ?", (table,)).fetchone()
    return f"INDEXED BY {keys[0]}" if "WITHOUT ROWID" in made_by else "NOT INDEXED"


def _remove(part: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        part.with_name(part.name + suffix).unlink(missing_ok=True)
