"""Parameters as the ledger writes them (`?`, `?1`, `:name`), as psycopg wants them (`%s`, `%(name)s`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(
    r"""
    '(?:[^']|'')*'  |  "(?:[^"]|"")*"  |  --[^\n]*      # texts, names and comments stay as they are
    | (?P<cast>::)
    | \?(?P<number>\d+) | (?P<next>\?) | :(?P<name>[a-z_]+)
    """,
    re.VERBOSE,
)


def for_psycopg(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> tuple[str, Any]:
    """A statement and its parameters, for psycopg. Without parameters it may be several statements."""
    if not parameters:
        return sql, None
    text, is_numbered = _translated(sql)
    if is_numbered and not isinstance(parameters, Mapping):
        return text, {f"p{number}": value for number, value in enumerate(parameters, 1)}
    return text, parameters


@lru_cache(maxsize=2000)
def _translated(sql: str) -> tuple[str, bool]:
    pieces, end, is_numbered = [], 0, False
    for found in _TOKEN.finditer(sql):
        pieces.append(sql[end : found.start()].replace("%", "%%"))
        end = found.end()
        if found["number"]:
            is_numbered = True
            pieces.append(f"%(p{found['number']})s")
        elif found["next"]:
            pieces.append("%s")
        elif found["name"]:
            pieces.append(f"%({found['name']})s")
        else:
            pieces.append(found[0].replace("%", "%%"))
    pieces.append(sql[end:].replace("%", "%%"))
    return "".join(pieces), is_numbered
