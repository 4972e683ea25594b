"""Reads the rows of a ledger that is copied, a bounded part at a time, and writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from reconciler.events import times
from reconciler.ledger.storage import hashes, meta
from reconciler.ledger.storage.connection import is_trouble
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.savepoint import savepoint
from reconciler.ledger.storage.sql import Sql
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep.copy_tables import META, SIGHTINGS, Column, Row, Table

ROWS, BYTES = 2000, 8 * 1024 * 1024
"""A part ends when it has so many rows, or so many bytes."""
LAST = (1 << 63) - 1
_BEFORE_ALL = -(1 << 63)

_ARRAYS: dict[type, str] = {int: "bigint[]", str: "text[]", bytes: "bytea[]"}
_HASHES = tuple(Column(name, int, False) for name in ("sighting_id", "id_hash", "key_hash", "happened_ms"))


class Part(msgspec.Struct, frozen=True):
    """Rows of a table, and from where the next part begins."""

    rows: Sequence[Row]
    after: tuple[int, ...]


class Parts:
    """Reads a table in the order of a key: its own, or another one of integers that `by` names. With `within`, only
    rows up to a value of that key's first column are read.
    """

    def __init__(
        self, table: Table, columns: Sequence[Column], *, by: Sequence[str] = (), within: bool = False
    ) -> None:
        self._table = table
        self._key = [one.name for one in columns].index
        self._by = tuple(by or table.key)
        self._sql = _reading(table, columns, self._by, within=within)
        self._places = () if table.counts_rows else tuple(self._key(name) for name in self._by)

    @property
    def first(self) -> tuple[int, ...]:
        """What `after` is at the beginning."""
        return (0,) if self._table.counts_rows else (_BEFORE_ALL,) * len(self._by)

    def read(self, db: Database, after: tuple[int, ...], *, within: int | None = None) -> Part | None:
        """The rows after a place; None if there are none."""
        bound = () if within is None else (within,)
        asked = (ROWS, *after) if self._table.counts_rows else (*after, *bound, ROWS)
        rows: list[Row] = []
        size = 0
        for row in db.execute(self._sql, asked):
            rows.append(tuple(row))
            size += sum(len(value) for value in row if isinstance(value, str | bytes))
            if size >= BYTES:  # SQLite's rows are read one by one
                break
        if not rows:
            return None
        if self._table.counts_rows:
            return Part(rows, (after[0] + len(rows),))
        return Part(rows, tuple(rows[-1][place] for place in self._places))

    def all(self, db: Database, after: tuple[int, ...] | None = None, *, within: int | None = None) -> Iterator[Part]:
        """Each part of the rows after a place, by default of all."""
        part = self.read(db, self.first if after is None else after, within=within)
        while part is not None:
            yield part
            part = self.read(db, part.after, within=within)


def _reading(table: Table, columns: Sequence[Column], by: tuple[str, ...], *, within: bool) -> Sql:
    names, key = ", ".join(one.name for one in columns), ", ".join(by)
    where = [table.where, *(_owned(table.name, column, owner) for column, owner in table.owners)]
    if not table.counts_rows:
        where.append(f"({key}) > ({', '.join('?' * len(by))})")
    if within:
        where.append(f"{by[0]} <= ?")
    size = " + ".join(f"coalesce(octet_length({one.name}), 0)" for one in columns if one.type is not int) or "0"
    limit = "LIMIT ? OFFSET ?" if table.counts_rows else "LIMIT ?"
    rest = f"FROM {table.name} WHERE {' AND '.join(where)} ORDER BY {key} {limit}"
    return Sql(
        f"SELECT {names} {rest}",
        postgresql=f"""
        SELECT {names} FROM (SELECT *, sum(size) OVER (ORDER BY {key}) - size AS before
                               FROM (SELECT {names}, {size} AS size {rest}) AS bounded) AS sized
         WHERE before < {BYTES} ORDER BY {key}
        """,
    )


def _owned(table: str, column: str, owner: str) -> str:
    return f"EXISTS (SELECT 1 FROM {owner} WHERE {owner}.id = {table}.{column})"


def without_owner(db: Database, table: Table) -> int:
    """How many rows of a table belong to nothing."""
    if not table.owners:
        return 0
    owned = " AND ".join(_owned(table.name, column, owner) for column, owner in table.owners)
    count: int = db.execute(f"SELECT count(*) FROM {table.name} WHERE NOT ({owned})").fetchone()[0]
    return count


def count(db: Database, table: Table) -> int:
    """How many rows a table has."""
    rows: int = db.execute(f"SELECT count(*) FROM {table.name} WHERE {table.where}").fetchone()[0]
    return rows


def write(db: Database, table: Table, columns: Sequence[Column], rows: Sequence[Row]) -> int:
    """Write rows inside the open transaction. Returns how many of them the database refused."""
    if table is META:
        for name, value in rows:
            meta.put(db, name, value)
        return 0
    if not rows:
        return 0
    try:
        _write(db, table, columns, rows)
    except db.Error as error:
        if is_trouble(error):
            raise
    else:
        return 0
    refused = 0
    for row in rows:
        try:
            _write(db, table, columns, [row])
        except db.Error as error:
            if is_trouble(error):
                raise
            refused += 1
    return refused


def _write(db: Database, table: Table, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """All of them or none."""
    with savepoint(db):
        _insert(db, table.name, columns, rows)
        if table is SIGHTINGS:
            place = [one.name for one in columns].index
            parts = [place(name) for name in ("id", "source", "source_id", "key", "happened_at")]
            _insert(db, "sighting_hashes", _HASHES, [_hashed(*(row[part] for part in parts)) for row in rows])


def _insert(db: Database, table: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    into = f"INSERT INTO {table} ({', '.join(one.name for one in columns)})"
    if isinstance(db, SqliteDatabase):
        db.executemany(f"{into} VALUES ({', '.join('?' * len(columns))})", rows)
        return
    # One statement: a trigger on the table runs once, and nothing is sent for each row.
    arrays = ", ".join(f"CAST(? AS {_ARRAYS[one.type]})" for one in columns)
    db.execute(f"{into} SELECT * FROM unnest({arrays})", [list(values) for values in zip(*rows, strict=True)])


def _hashed(ident: int, source: str, source_id: str, key: str, happened_at: str) -> tuple[int, int, int, int]:
    return ident, hashes.id_hash(source, source_id), hashes.key_hash(key), times.from_iso(happened_at)


def continue_numbers(db: Database, table: Table) -> None:
    """The next row's number in PostgreSQL: after those that were copied. SQLite finds it by itself."""
    if table.is_numbered and not isinstance(db, SqliteDatabase):
        sql = f"""
            SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), coalesce(max(id), 1), max(id) IS NOT NULL)
              FROM {table.name}
        """
        db.execute(sql)


class AnyText:
    """Has a connection read texts that are no UTF-8 too, and counts them."""

    def __init__(self, db: Database) -> None:
        self.replaced = 0
        if isinstance(db, SqliteDatabase):
            db.conn.text_factory = self._decoded

    def _decoded(self, text: bytes) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            self.replaced += 1
            return text.decode("utf-8", "replace")
