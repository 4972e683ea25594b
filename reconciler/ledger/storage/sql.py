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


def filled(template: str, **parts: str) -> Sql:
    """A statement made of a template and of parts, which the two may write differently."""
    own = {name: part.postgresql if isinstance(part, Sql) else part for name, part in parts.items()}
    return Sql(template.format(**parts), postgresql=template.format(**own))
