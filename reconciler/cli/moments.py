"""Times on the command line: dates, times, and how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from reconciler.events import times
from reconciler.events.times import DAY, HOUR, MINUTE, SECOND, Millis

HOW = "2026-10-01, 2026-10-01T08:30:00+02:00, today, yesterday, or 90m, 12h, 7d, 2w for so long ago"

FromOption = Annotated[
    str | None,
    typer.Option("--from", help=f"Happened on or after this date or time (UTC): {HOW}."),
]
ToOption = Annotated[
    str | None,
    typer.Option("--to", help="Happened on or before this date, or before this time (UTC); written as --from is."),
]

_AGO = re.compile(r"(\d{1,12})\s*(s|m|h|d|w)(?:\s*ago)?", re.ASCII)
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DAYS_AGO = {"today": 0, "yesterday": 1}


def moment(text: str | None, *, end_of_day: bool = False) -> Millis | None:
    """A date or time from the command line, as UTC where it says no zone.

    A date is the start of its day, or with `end_of_day` the start of the next, so that both days of a range
    are included. Raises typer.BadParameter.
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
        raise typer.BadParameter(f"{text!r} is no date or time; write {HOW}")
    return found


def time_range(since: str | None, until: str | None) -> tuple[Millis | None, Millis | None]:
    """What --from and --to say: both days of a range of dates are in it. Raises typer.BadParameter."""
    start, end = moment(since), moment(until, end_of_day=True)
    if start is not None and end is not None and start >= end:
        raise typer.BadParameter("--from must be before --to")
    return start, end


def _date(word: str) -> Millis | None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", word, re.ASCII):
        return None
    try:
        return Millis(round(datetime.strptime(word, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000)
    except ValueError:
        return None


def _ago(word: str, now: Millis) -> Millis | None:
    """So long before now."""
    found = _AGO.fullmatch(word)
    return None if found is None else Millis(now - int(found[1]) * _UNITS[found[2]])
