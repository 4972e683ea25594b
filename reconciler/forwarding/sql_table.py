"""The table of `kind: sql`: its columns, the row of a message, and how rows are written.

Columns have the names and values of an export (`ledger/views/export.py`). Texts, the payload
among them, are of the type without a limit: a JSON type refuses or changes what GitLab may send (`\\u0000`, 1e400,
numbers of twenty digits), and a template need not make JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    MetaData,
    Table,
    Unicode,
    UnicodeText,
    bindparam,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import mysql

from reconciler.events import times
from reconciler.forwarding.message import Message

_MYSQL = ("mysql", "mariadb")
# The usual collations of MySQL take `a` and `A` for the same.
_ID = Unicode(255).with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), *_MYSQL)
_TEXT = UnicodeText().with_variant(mysql.LONGTEXT(), *_MYSQL)
_TIME = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=3), *_MYSQL)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TableUnfit(Exception):
    """The table is there and can't take the events. The message says what to change."""


def described(name: str) -> Table:
    """The table `name`, or `schema.name`, as it is created if it is missing."""
    schema, _, table = name.rpartition(".")
    return Table(
        table,
        MetaData(),
        Column("id", _ID, primary_key=True),
        Column("kind", _TEXT, nullable=False),
        Column("action", _TEXT),
        Column("project_id", BigInteger),
        Column("project_path", _TEXT),
        Column("author", _TEXT),
        Column("title", _TEXT),
        Column("ref", _TEXT),
        Column("object", _TEXT),
        Column("happened_at", _TIME),
        Column("recorded_at", _TIME),
        Column("seen_at", _TIME),
        Column("source", _TEXT),
        Column("recovered", _TEXT),
        Column("unknown", _TEXT),
        Column("redacted", _TEXT),
        Column("payload", _TEXT, nullable=False),
        schema=schema or None,
        mysql_charset="utf8mb4",
        mariadb_charset="utf8mb4",
    )


def row(message: Message) -> dict[str, Any]:
    """A message as the values of its columns."""
    event = message.event
    if event is None:
        raise TypeError(f"the message {message.id} stands for no single event")
    about, recovery = event.summary, event.recovery
    return {
        "id": message.id,
        "kind": _text(about.kind),
        "action": _text(about.action),
        "project_id": about.project_id,
        "project_path": _text(about.project_path),
        "author": _text(about.author),
        "title": _text(about.title),
        "ref": _text(about.ref),
        "object": _text(about.object),
        "happened_at": _time(event.happened_at),
        "recorded_at": _time(event.recorded_at),
        "seen_at": _time(event.seen_at),
        "source": _text(event.source),
        "recovered": None if recovery is None else recovery.by,
        "unknown": json.dumps([] if recovery is None else recovery.unknown),
        "redacted": json.dumps([] if recovery is None else recovery.redacted),
        "payload": _text(message.body.decode("utf-8", "replace")),
    }


def is_there(connection: Connection, table: Table) -> bool:
    """Whether the table is there. Raises TableUnfit if it can't take the events."""
    found = inspect(connection)
    if not found.has_table(table.name, table.schema):
        return False
    columns = {column["name"] for column in found.get_columns(table.name, table.schema)}
    if missing := [column.name for column in table.columns if column.name not in columns]:
        raise TableUnfit(
            f"the table {table.fullname} has no column {', '.join(missing)}: add it, or name another table"
        )
    keys: list[Any] = [found.get_pk_constraint(table.name, table.schema)["constrained_columns"]]
    keys += [one["column_names"] for one in found.get_indexes(table.name, table.schema) if one["unique"]]
    with suppress(NotImplementedError):  # where a constraint is an index anyway
        keys += [one["column_names"] for one in found.get_unique_constraints(table.name, table.schema)]
    if ["id"] not in keys:
        what = "add a primary key or a unique index of this column, or name another table"
        raise TableUnfit(f"the table {table.fullname} may have an id twice: {what}")
    return True


def write(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows, or overwrite those that are there. Other columns of the table keep their values.

    No dialect's own statement does it, so that it works in every database. If another writer inserts the same row
    meanwhile, the table's key makes this fail.
    """
    of_id = {one["id"]: one for one in rows}
    there = set(connection.scalars(select(table.c.id).where(table.c.id.in_(list(of_id)))))
    if new := [one for ident, one in of_id.items() if ident not in there]:
        connection.execute(insert(table), new)
    if old := [{"this_id": one["id"]} | _without_id(one) for ident, one in of_id.items() if ident in there]:
        connection.execute(update(table).where(table.c.id == bindparam("this_id")), old)


def _without_id(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "id"}


def size_in_mysql(values: dict[str, Any]) -> int:
    """About how many bytes a row has in a statement, as MySQL's client writes it: with some characters escaped."""
    texts = [one for one in values.values() if isinstance(one, str)]
    return 2000 + sum(len(one.encode()) + sum(map(one.count, "\0\n\r\x1a\"'\\")) for one in texts)


def _text(text: str | None) -> str | None:
    """PostgreSQL has no text with NUL, and no database one with half a character: both become U+FFFD."""
    if text is None:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _time(text: str) -> datetime | None:
    found = times.written(text)
    return None if found is None else _EPOCH + timedelta(milliseconds=found)
