"""PostgreSQL's errors in one line. It needs no psycopg: that is an extra."""

from __future__ import annotations

import re
from typing import Any

LONGEST = 500
"""An error is cut to so many characters: a value in it may be long."""

_SEVERAL = "Multiple connection attempts failed. All failures were:"
_HOST = re.compile(r"^- host: .*?, hostaddr: (?:'[^']*'|None): ")
_BEFORE = re.compile(r"^(?:connection failed|consuming input failed): ")


def is_postgresql(error: BaseException) -> bool:
    """Whether it is one of psycopg's."""
    return hasattr(error, "diag")


def explain(error: Any) -> str:
    """An error of psycopg's in one line, without the statement, the functions that it was in, and the row."""
    said = error.diag.message_primary
    if said is None:  # it is the client's own
        said = "; ".join(dict.fromkeys(_reasons(str(error).splitlines()))) or type(error).__name__
    said = " ".join(f"PostgreSQL: {said}".split())
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"


def _reasons(lines: list[str]) -> list[str]:
    """The first line of a message; of one about several hosts, that of each."""
    if _SEVERAL in lines:
        lines = [_HOST.sub("", one) for one in lines[lines.index(_SEVERAL) + 1 :] if one.startswith("- ")]
    else:
        lines = lines[:1]
    return [_BEFORE.sub("", one) for one in lines]
