"""The tables that a copy of a ledger has, and their values as the copy can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql
from reconciler.ledger.storage.sqlite import SqliteDatabase

Row = tuple[Any, ...]

NUL = "\ufffd"
"""What PostgreSQL's texts have instead of NUL (see `PostgresDatabase`)."""


class Table(msgspec.Struct, frozen=True):
    """A table to copy, in the order of `key`. `owners` are the tables that its rows belong to, by column: a row whose
    owner is missing is left out. A key of texts is small enough a table to be read by counting its rows.
    """

    name: str
    key: tuple[str, ...] = ("id",)
    owners: tuple[tuple[str, str], ...] = ()
    counts_rows: bool = False
    is_numbered: bool = False
    """PostgreSQL numbers its rows by a sequence."""
    where: str = "true"


_OF_EVENT = (("event_id", "events"),)
_OF_DELIVERY = (*_OF_EVENT, ("destination_id", "destinations"))

OWN = ("program", "ready", "copying", "intake", "intake_opening", "damage", "damage beyond repair")
"""What each ledger has of its own in `meta`: who wrote it, where its intake is, and the state of its file."""

_OWN_NAMES = ", ".join(f"'{name}'" for name in OWN)
META = Table(
    "meta", ("name",), counts_rows=True, where=f"name NOT IN ({_OWN_NAMES}) AND substr(name, 1, 5) <> 'copy '"
)
"""Nor is it copied which copies of a service there were."""
EVENTS = Table("events")
SIGHTINGS = Table("sightings", owners=_OF_EVENT)
DELIVERIES = Table("deliveries", ("event_id", "destination_id"), _OF_DELIVERY)
ATTEMPTS = Table("attempts", owners=_OF_DELIVERY, is_numbered=True)
OTHERS = (
    META,
    Table("projects"),
    Table("former_paths", ("project_id", "path"), counts_rows=True),
    Table("destinations", is_numbered=True),
    Table("coverage", ("project_id", "source", "covered_from"), counts_rows=True),
    Table("runs", is_numbered=True),
    Table("sources", ("project_id", "source"), counts_rows=True),
    Table("downtimes", ("started_at",), counts_rows=True),
    Table("hooks", ("project_id", "hook_id"), counts_rows=True),
    Table("alerts", is_numbered=True),
    Table("parts", ("name",), counts_rows=True),
    Table("watched", ("kind", "name", "below"), counts_rows=True),
    Table("unreadable", ("project_id", "source", "record_id"), counts_rows=True),
    Table("unrecorded", is_numbered=True),
)
TABLES = (*OTHERS, EVENTS, SIGHTINGS, DELIVERIES, ATTEMPTS)
"""In the order in which they are copied: what a row belongs to comes before it."""
MADE_ANEW = ("lanes", "sighting_hashes", "search")
"""Tables that are made of others: by triggers, with each sighting, and by the service in the background."""


class Column(msgspec.Struct, frozen=True):
    """A column: `type` is int, str or bytes."""

    name: str
    type: type
    may_be_null: bool


_TYPES: dict[str, type] = {
    "INTEGER": int, "TEXT": str, "BLOB": bytes, "bigint": int, "text": str, "bytea": bytes,
}  # fmt: skip
_COLUMNS = Sql(
    'SELECT name, type, "notnull" = 0 FROM pragma_table_info(?) ORDER BY cid',
    postgresql="""
    SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns
     WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position
    """,
)


def columns(db: Database, table: str) -> tuple[Column, ...]:
    """The columns of a table."""
    rows = db.execute(_COLUMNS, (table,)).fetchall()
    return tuple(Column(str(name), _TYPES[kind], bool(null)) for name, kind, null in rows)


class Fit:
    """Makes rows of a table as the target can hold them. SQLite's columns hold values of any type, if a person or a
    bug wrote them, and PostgreSQL's texts have no NUL.
    """

    def __init__(self, target: Database, table: Table) -> None:
        self.columns = columns(target, table.name)
        self._key = frozenset(table.key)
        self._holds_nul = isinstance(target, SqliteDatabase)
        self.replaced = 0
        """How many values were not written as they were."""

    def __call__(self, row: Sequence[Any]) -> Row | None:
        """None if its key is no key."""
        values = []
        for column, value in zip(self.columns, row, strict=True):
            if value is None or (type(value) is column.type and self._holds(value)):
                values.append(value)
            elif column.name in self._key and column.type is int:
                return None
            else:
                self.replaced += 1
                values.append(self._other(column, value))
        return tuple(values)

    def _holds(self, value: Any) -> bool:
        return self._holds_nul or not isinstance(value, str) or "\0" not in value

    def _other(self, column: Column, value: Any) -> Any:
        if column.type is int:  # as it is read: what is no number counts as 0
            return None if column.may_be_null else 0
        if column.type is bytes:
            return str(value).encode()
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return text if self._holds_nul else text.replace("\0", NUL)
