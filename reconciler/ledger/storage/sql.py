"""SQL that SQLite and PostgreSQL write differently. Everything else is written once, for both."""

from __future__ import annotations


class Sql(str):
    """A statement for SQLite, and the same one for PostgreSQL. Both take the same parameters."""

    postgresql: str
    __slots__ = ("postgresql",)

    def __new__(cls, sqlite: str, *, postgresql: str) -> Sql:
        made = super().__new__(cls, sqlite)
        made.postgresql = postgresql
        return made


IDS = Sql(
    "json_each(?) AS ids",
    postgresql="(SELECT value::bigint AS value FROM jsonb_array_elements_text(?::jsonb)) AS ids",
)
"""A table whose column `value` has the numbers of a JSON array, which is a parameter."""


def joined(*parts: str) -> Sql:
    """A statement made of parts."""
    return Sql(" ".join(parts), postgresql=" ".join(one.postgresql if isinstance(one, Sql) else one for one in parts))


def look_up(table: str, name: str, on: str, *, left: bool = False) -> Sql:
    """A join that looks up the rows of `table` for one row after the other of what comes before it, by an index.

    In PostgreSQL, OFFSET 0 keeps the planner from reading whole tables: it takes them for small when it plans a
    statement for a new ledger, and keeps that plan while they grow.
    """
    how = "LEFT JOIN" if left else "CROSS JOIN"
    looked_up = f"LATERAL (SELECT * FROM {table} AS {name} WHERE {on} OFFSET 0) AS {name}"
    return Sql(
        f"{how} {table} AS {name} ON {on}", postgresql=f"{how} {looked_up} ON true" if left else f"{how} {looked_up}"
    )


def filled_in(template: str, *parts: str, **named: str) -> Sql:
    """A statement from a template for `str.format`. Parts may be Sql."""
    own = {name: for_postgresql(part) for name, part in named.items()}
    return Sql(template.format(*parts, **named), postgresql=template.format(*map(for_postgresql, parts), **own))


EACH_INTEGER = Sql(
    "SELECT value FROM json_each(?)",
    postgresql="SELECT CAST(json_array_elements_text(CAST(? AS json)) AS bigint)",
)
"""The integers in a parameter that is a JSON array."""


def for_postgresql(sql: str) -> str:
    """The text for PostgreSQL."""
    return sql.postgresql if isinstance(sql, Sql) else sql
