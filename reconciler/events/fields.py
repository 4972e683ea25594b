"""Careful reading of JSON that others wrote: every helper takes anything and answers with a type or None."""

from __future__ import annotations

import json
import math
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
    surrogates, large numbers), slowly. A number that is too large to count with is read as its text.

    Raises ValueError for what is none, or is nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(
            data if isinstance(data, str) else data.decode(),
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def as_json(value: Any) -> str:
    """What `parsed` made, or a part of it, as JSON again.

    Raises TypeError for what is none, ValueError for what is no number, RecursionError for what is too deep.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, a number beyond 64 bits, or deeper than orjson goes
        return json.dumps(value, allow_nan=False)


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # Python counts with no more digits than this: it would take for ever
        return digits


def _float(digits: str) -> float | str:
    number = float(digits)
    return digits if math.isinf(number) else number


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
