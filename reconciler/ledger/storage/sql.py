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


def for_ids(text: str) -> Sql:
    """A statement in which `{ids}` is a table `ids`: its column `value` has the numbers of a JSON array, which is a
    parameter.
    """
    return Sql(
        text.replace("{ids}", "json_each(?) AS ids"),
        postgresql=text.replace(
            "{ids}", "(SELECT value::bigint AS value FROM jsonb_array_elements_text(?::jsonb)) AS ids"
        ),
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
