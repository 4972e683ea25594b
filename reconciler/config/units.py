"""Durations, sizes and rates as people write them: `90s`, `5m`, `3d`, `25MiB`, `10/s`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_MILLIS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?")
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|h)")
_LONGEST = 3650 * _MILLIS["d"]


def duration(value: Any) -> int:
    """A duration in milliseconds. A bare integer is milliseconds, as our own defaults write it."""
    if isinstance(value, int) and not isinstance(value, bool):
        millis = value
    else:
        found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise ValueError("should be a duration like 500ms, 90s, 5m, 2h or 3d")
        millis = round(float(found[1]) * _MILLIS[found[2]])
    if not 0 < millis <= _LONGEST:
        raise ValueError("should be longer than nothing and shorter than ten years")
    return millis


def size(value: Any) -> int:
    """A size in bytes."""
    found = _SIZE.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if found is None:
        raise ValueError("should be a size like 512KiB or 25MiB")
    total = int(found[1]) * _BYTES[found[2]]
    if total < 1:
        raise ValueError("should be more than nothing")
    return total


def rate(value: Any) -> float:
    """A rate in events a second."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        per_second = float(value)
    else:
        found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise ValueError("should be a rate like 10/s, 600/m or 1000/h")
        per_second = float(found[1]) * 1000 / _MILLIS[found[2]]
    if not per_second > 0:
        raise ValueError("should be more than nothing")
    return per_second


Duration = Annotated[
    int,
    BeforeValidator(duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$", "examples": ["90s", "5m"]}),
]
"""Milliseconds; written as text with a unit."""

Size = Annotated[
    int,
    BeforeValidator(size),
    WithJsonSchema({"type": ["string", "integer"], "pattern": r"^\d+\s*(B|KiB|MiB|GiB)?$", "examples": ["25MiB"]}),
]
"""Bytes; written as text with a unit."""

Rate = Annotated[
    float,
    BeforeValidator(rate),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*/\s*(s|m|h)$", "examples": ["10/s", "600/m"]}),
]
"""Events a second; written as text with a unit."""
