"""Templates, and the format of times, durations and JSON. Everything is escaped; nothing is marked as safe."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reconciler.events import times
from reconciler.events.fields import as_json
from reconciler.events.times import DAY, HOUR, MINUTE, SECOND, Millis

_UNITS = ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (SECOND, "s"))


def templates() -> Environment:
    """The template environment of all pages."""
    made = Environment(
        loader=PackageLoader("reconciler.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": moment, "duration": duration, "count": count, "percent": percent, "kind_of": kind_of}
    made.filters["written"] = written
    return made


def moment(value: str | Millis | None) -> str:
    """A time to the second, in UTC."""
    if value is None:
        return "–"
    text = times.iso(value) if isinstance(value, int) else value
    return text[:19].replace("T", " ")


def duration(millis: float | None) -> str:
    """A duration, rounded to its largest unit."""
    if millis is None:
        return "–"
    for unit, name in _UNITS:
        if millis >= unit:
            return f"{millis / unit:.0f} {name}"
    return f"{millis:.0f} ms"


def count(value: int | None) -> str:
    """A number with thousands separators."""
    return "–" if value is None else f"{value:,}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{value:.1%}"


def kind_of(value: Any) -> str:
    """The type of a JSON value, for the template that folds it."""
    if isinstance(value, dict):
        return "object"
    return "array" if isinstance(value, list) else "scalar"


def written(value: Any) -> str:
    """A JSON value as text. Never raises."""
    try:
        return as_json(value)
    except RecursionError:
        return "… (too deep to show)"


def today(now: Millis) -> str:
    """The time a page was rendered, for its footer."""
    return datetime.fromtimestamp(now / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
