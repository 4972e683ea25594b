"""Durations, sizes and rates as people write them: `90s`, `5m`, `3d`, `25MiB`, `10/s`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from reconciler.events.times import Millis

_DURATION = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*(ms|s|m|h|d)")
_MILLIS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE = re.compile(r"(\d{1,15})\s*(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_RATE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*/\s*(s|m|h)")
_LONGEST = 3650 * _MILLIS["d"]


def duration(value: Any) -> Millis:
    """A duration in milliseconds. A number without a unit is refused: `365` may mean days, and `10` seconds."""
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"should be a duration with a unit, like 500ms, 90s, 5m, 2h or 3d{_missing_unit(value)}")
    millis = round(float(found[1]) * _MILLIS[found[2]])
    if not 0 < millis <= _LONGEST:
        raise ValueError("should be longer than nothing and shorter than ten years")
    return Millis(millis)


def _missing_unit(value: Any) -> str:
    """What to add to the message for a number without a unit."""
    written = str(value).strip()
    bare = not isinstance(value, bool) and re.fullmatch(r"\d+(\.\d+)?", written)
    return f"; {written} has none" if bare else ""


def size(value: Any) -> int:
    """A size in bytes."""
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"should be a size with a unit, like 65536B, 512KiB or 25MiB{_missing_unit(value)}")
    total = int(found[1]) * _BYTES[found[2]]
    if total < 1:
        raise ValueError("should be more than nothing")
    return total


def rate(value: Any) -> float:
    """A rate in events a second."""
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"should be a rate with a unit, like 10/s, 600/m or 1000/h{_missing_unit(value)}")
    per_second = float(found[1]) * 1000 / _MILLIS[found[2]]
    if not per_second > 0:
        raise ValueError("should be more than nothing")
    return per_second


Duration = Annotated[
    Millis,
    BeforeValidator(duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$", "examples": ["90s", "5m"]}),
]
"""Written as text with a unit."""

DurationOrNone = Annotated[
    Millis,
    BeforeValidator(lambda value: Millis(0) if value in (0, "0", "0s", "0ms") else duration(value)),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$", "examples": ["0s", "200ms"]}),
]
"""A duration that may be zero."""

Size = Annotated[
    int,
    BeforeValidator(size),
    WithJsonSchema({"type": "string", "pattern": r"^\d+\s*(B|KiB|MiB|GiB)$", "examples": ["25MiB"]}),
]
"""Bytes; written as text with a unit."""

Rate = Annotated[
    float,
    BeforeValidator(rate),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*/\s*(s|m|h)$", "examples": ["10/s", "600/m"]}),
]
"""Events a second; written as text with a unit."""
