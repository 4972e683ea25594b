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
