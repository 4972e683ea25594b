"""Where a ledger is: a file of SQLite's, or a database of PostgreSQL's."""

from __future__ import annotations

import re
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


def problem(uri: str) -> str | None:
    """What is wrong with the URI of a ledger in PostgreSQL, without showing any of it."""
    scheme, _, rest = uri.partition("://")
    authority = re.split("[/?#]", rest)[0]
    hosts = authority.rpartition("@")[2].split(",")  # several: the first that answers is used
    if scheme not in ("postgresql", "postgres") or re.search(r"[\s\x00-\x1f\x7f]", uri):
        return "should be a URI like postgresql://user:password@host/database"
    is_wrong = "@" in rest.partition("?")[0][len(authority) :] or "#" in uri or "[" in authority.rpartition("@")[0]
    is_wrong |= re.search(r"%(?![0-9a-fA-F]{2})", uri) is not None
    is_wrong |= not all(re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:@\[\]]*)(:\d*)?", host) for host in hosts)
    if is_wrong or ("@" not in authority and "@" in rest):
        return (
            "should be a URI like postgresql://user:password@host/database: is the port a number, and is every "
            "special character of the password written as %XX?"
        )
    return None


Location = Path | PostgresUrl
