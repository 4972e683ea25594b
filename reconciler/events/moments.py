"""Times as people write them in options and queries: dates, times and ages."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from reconciler.events import times
from reconciler.events.times import DAY, HOUR, MINUTE, SECOND, Millis

HOW = "2026-10-01, 2026-10-01T08:30:00+02:00, today, yesterday, or an age like 90m, 12h, 7d, 2w"

_AGO = re.compile(r"(\d{1,12})\s*(s|m|h|d|w)(?:\s*ago)?", re.ASCII)
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DAYS_AGO = {"today": 0, "yesterday": 1}


def moment(text: str | None, *, end_of_day: bool = False) -> Millis | None:
    """A date or time as people write it; UTC unless it has a time zone.

    A date means the start of that day, or with `end_of_day` the start of the next, so that a range includes both
    of its days. Raises ValueError.
    """
    if text is None:
        return None
    word = text.strip().lower()
    now = times.now()
    day = Millis(now - now % DAY - _DAYS_AGO[word] * DAY) if word in _DAYS_AGO else _date(word)
    if day is not None:
        return Millis(day + DAY) if end_of_day else day
    found = now if word == "now" else _ago(word, now) or times.parse(text)
    if found is None:
        raise ValueError(f"{text!r} is not a date or time; write {HOW}")
    return found


def time_range(since: str | None, until: str | None) -> tuple[Millis | None, Millis | None]:
    """The range between two of them. A range of dates includes both days. Raises ValueError."""
    start, end = moment(since), moment(until, end_of_day=True)
    if start is not None and end is not None and start >= end:
        raise ValueError("the start must be before the end")
    return start, end


def _date(word: str) -> Millis | None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", word, re.ASCII):
        return None
    try:
        return Millis(round(datetime.strptime(word, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000)
    except ValueError:
        return None


def _ago(word: str, now: Millis) -> Millis | None:
    """The time that long ago."""
    found = _AGO.fullmatch(word)
    return None if found is None else Millis(now - int(found[1]) * _UNITS[found[2]])
