"""Careful reading of JSON that others wrote: every helper takes anything and answers with a type or None."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import orjson

_LARGEST = (1 << 63) - 1
"""SQLite's largest integer; GitLab's ids are far smaller."""
LONGEST_NAME = 255
"""Of what lists and filters show of a body, in characters: GitLab's own limit for names, paths and refs."""


@lru_cache(maxsize=256)
def _steps(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def parsed(data: str | bytes) -> Any:
    """JSON as GitLab may write it, in webhooks and answers alike: fast, or, for what the fast parser refuses (lone
    surrogates), slowly.

    Raises ValueError for what is none, or is nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data if isinstance(data, str) else data.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def dig(body: Any, path: str) -> Any:
    """The value at a dotted path, or None where any step is missing or no object."""
    for step in _steps(path):
        if not isinstance(body, dict):
            return None
        body = body.get(step)
    return body


def text(value: Any) -> str | None:
    """A non-empty string that SQLite can hold, or None. Lone surrogates are replaced."""
    if not isinstance(value, str) or not value:
        return None
    if value.isascii():
        return value
    return value.encode("utf-8", "replace").decode()


def short(value: str | None) -> str | None:
    """Text for a list: no longer than GitLab's own names."""
    return value if value is None else value[:LONGEST_NAME]


def number(value: Any) -> int | None:
    """A positive id that SQLite can hold, or None. A string of digits is one too."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST:
        return value
    return None


def word(value: Any) -> str | None:
    """A scalar as a word of a key: text, number or truth value; None for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)[:40]
    return text(value)


def first_text(body: Any, *paths: str) -> str | None:
    """The first of several dotted paths that holds text."""
    for path in paths:
        found = text(dig(body, path))
        if found is not None:
            return found
    return None


def first_number(body: Any, *paths: str) -> int | None:
    """The first of several dotted paths that holds an id."""
    for path in paths:
        found = number(dig(body, path))
        if found is not None:
            return found
    return None
