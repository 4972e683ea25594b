"""Where a ledger is: a file of SQLite's, or a database of PostgreSQL's."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit


class PostgresUrl(str):
    """A ledger in PostgreSQL, as libpq's connection URI. It is shown without its password."""

    __slots__ = ()

    def __str__(self) -> str:
        parts = urlsplit(self.value)
        where = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, where, parts.path, "", ""))

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def value(self) -> str:
        """The whole URI, with its password."""
        return str.__str__(self)


Location = Path | PostgresUrl
