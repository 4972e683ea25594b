"""Reads JSON from outside with care: every helper takes any value and returns one type or None."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

import orjson

_LARGEST = (1 << 63) - 1
"""SQLite's largest integer; GitLab's ids are far smaller."""
LONGEST_NAME = 255
"""The longest text from a body in lists and filters, in characters: GitLab's own limit for names, paths and refs."""
_TITLE_LENGTH = 200


@lru_cache(maxsize=256)
def _steps(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def parsed(data: str | bytes) -> Any:
    """Parse JSON from GitLab. What the fast parser rejects (lone surrogates, large numbers) is parsed by a slow one.
    A number that is too large to compute with becomes text.

    Raises ValueError for text that is not JSON or is nested too deeply.
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
    """Write a value from `parsed`, or a part of it, as JSON.

    Raises TypeError for a value that is not JSON, ValueError for NaN or infinity, RecursionError if it is too deep.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, a number beyond 64 bits, or deeper than orjson goes
        return json.dumps(value, allow_nan=False)


def with_payload(text: str, payload: str, *, name: str = "payload") -> str:
    """A JSON object, not an empty one, with one more field of this name: stored JSON as it is, or a string if it is
    not valid JSON.
    """
    try:
        parsed(payload)
    except (ValueError, RecursionError):
        payload = json.dumps(payload)
    return f'{text[:-1]},"{name}":{payload}}}'


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # Python parses no more digits than this: it would take too long
        return digits


def _float(digits: str) -> float | str:
    number = float(digits)
    return digits if math.isinf(number) else number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def dig(body: Any, path: str) -> Any:
    """The value at a dotted path; None if a step is missing or not an object."""
    for step in _steps(path):
        if not isinstance(body, dict):
            return None
        body = body.get(step)
    return body


def text(value: Any) -> str | None:
    """A non-empty string that SQLite can store, or None. Lone surrogates are replaced."""
    if not isinstance(value, str) or not value:
        return None
    if value.isascii():
        return value
    return value.encode("utf-8", "replace").decode()


def short(value: str | None) -> str | None:
    """Text cut to the length of GitLab's names, for lists."""
    return value if value is None else value[:LONGEST_NAME]


def first_line(value: str | None) -> str | None:
    """The first line of a title or message, cut for a list; None if there is none."""
    lines = (value or "").strip().splitlines()
    return lines[0][:_TITLE_LENGTH] if lines else None


def number(value: Any) -> int | None:
    """A positive id that SQLite can store, or None. A string of digits counts too."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST:
        return value
    return None


def word(value: Any) -> str | None:
    """A text, number or boolean as a part of a key; None for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)[:40]
    return text(value)


def first_text(body: Any, *paths: str) -> str | None:
    """The text at the first of several dotted paths that has one."""
    for path in paths:
        found = text(dig(body, path))
        if found is not None:
            return found
    return None


def first_number(body: Any, *paths: str) -> int | None:
    """The id at the first of several dotted paths that has one."""
    for path in paths:
        found = number(dig(body, path))
        if found is not None:
            return found
    return None
