"""Parameters as the ledger writes them (`?`, `?1`, `:name`), as psycopg wants them (`%s`, `%(name)s`).

What PostgreSQL reads differently from SQLite, and what could be meant in two ways, is refused: it is a mistake in a
statement of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(
    r"""
    (?P<refused> \b(?:e|u&)['"]                          # E'…' has escapes of its own
      | /\*(?:(?!\*/).)*/\*                             # comments within comments
     | @\? | \?& | \?\|(?!\|) | \?\?        # operators
      | \[[^\]]*(?<!:):(?!:)[^\]]*\]                     # slices: which colon is a parameter's?
      | (?<=[\w\])]):(?=\w) )
    | '(?:[^']|'')*'  |  "(?:[^"]|"")*"  |  --[^\n]*    # texts, names and comments stay as they are
    | /\*.*?\*/  |  (?P<dollar>\$(?:[a-z_]\w*)?\$).*?(?P=dollar)
    | ::
    | \?(?P<number>\d+) | (?P<next>\?) | :(?P<name>[a-z_]\w*)
    | (?P<left>['":$] | /\*)                            # what is not closed, or no name
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def for_psycopg(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> tuple[str, Any]:
    """A statement and its parameters, for psycopg. Without parameters it may be several statements.

    Raises ValueError if the statement can't be translated with certainty.
    """
    if not parameters:
        return sql, None
    text, is_numbered = _translated(sql)
    if is_numbered and not isinstance(parameters, Mapping):
        return text, {f"p{number}": value for number, value in enumerate(parameters, 1)}
    return text, parameters


@lru_cache(maxsize=2000)
def _translated(sql: str) -> tuple[str, bool]:
    pieces, end, kinds = [], 0, set()
    for found in _TOKEN.finditer(sql):
        if found["refused"] or found["left"]:
            raise ValueError(f"can't be translated for PostgreSQL: {found[0]!r} in {sql!r}")
        kind = "number" if found["number"] else "next" if found["next"] else "name" if found["name"] else None
        pieces.append(sql[end : found.start()].replace("%", "%%"))
        pieces.append(_PLACES[kind](found) if kind else found[0].replace("%", "%%"))
        kinds.add(kind)
        end = found.end()
    pieces.append(sql[end:].replace("%", "%%"))
    if len(kinds - {None}) > 1:
        raise ValueError(f"has parameters of several kinds: {sql!r}")
    return "".join(pieces), "number" in kinds


_PLACES: dict[str, Callable[[re.Match[str]], str]] = {
    "number": lambda found: f"%(p{found['number']})s",
    "next": lambda _: "%s",
    "name": lambda found: f"%({found['name']})s",
}
