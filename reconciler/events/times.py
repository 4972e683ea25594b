"""The one place where GitLab's several time formats are read and ours is written.

Inside the program a time is an integer: milliseconds since 1970-01-01T00:00Z. In the ledger, in logs and on
every screen it is text: UTC, ISO 8601 with milliseconds, ending in `Z`. Years have four digits, so that texts sort
as their times do: what can't be written so is no time here.
"""

from __future__ import annotations

import math
import re
import time as _time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NewType

Millis = NewType("Millis", int)
"""Milliseconds: a moment since the Unix epoch, UTC, or a length of time. A type of its own, so that a count
of seconds is not taken for one."""

SECOND = Millis(1_000)
MINUTE = Millis(60 * SECOND)
HOUR = Millis(60 * MINUTE)
DAY = Millis(24 * HOUR)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

EARLIEST = Millis((datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND)
LATEST = Millis((datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND)
"""What can be written with four digits for the year."""

_SECONDS = re.compile(r"[0-9]{1,19}(\.[0-9]{0,19})?")

_FIRST_STATED = Millis((datetime(2011, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND)
"""GitLab was first released in October 2011."""
_LAST_STATED = Millis((datetime(2100, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND)


def now() -> Millis:
    """The wall clock."""
    return Millis(_time.time_ns() // 1_000_000)


class SteadyClock:
    """The wall clock as it was when this was made, going on evenly, whatever the wall clock is set to since.

    For pauses and due times: setting the wall clock neither ends nor prolongs what a running process waits for.
    """

    def __init__(self) -> None:
        self._began = _time.time_ns() - _time.monotonic_ns()

    def __call__(self) -> Millis:
        return Millis((self._began + _time.monotonic_ns()) // 1_000_000)


def parse(text: object) -> Millis | None:
    """Read a time as GitLab writes it; None for anything that is not one, or is outside the years 1 to 9999 in UTC.

    GitLab writes `2013-12-03T17:15:43Z`, `2015-05-17 18:08:09 UTC` and `2023-11-20 18:21:41 +0100`, with or
    without fractions, depending on the kind of webhook. A time without a zone is taken as UTC.
    """
    if not isinstance(text, str) or len(text) < len("2013-12-03"):
        return None
    text = text.strip()
    if text.endswith(" UTC"):
        text = text[:-4] + "+00:00"
    else:
        text = text.replace(" +", "+").replace(" -", "-")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    millis = Millis((moment - _EPOCH) // _MILLISECOND)
    return millis if EARLIEST <= millis <= LATEST else None


def stated(text: object) -> Millis | None:
    """When something happened, as a webhook's body states it; None where it states nothing that can be true.

    Importers write `0001-01-01` and scripts `9999-12-31` where they know no time. The bounds are fixed ones, so that
    all webhooks that tell of an event are judged alike, whenever and by whatever clock they are read. What GitLab's
    lists say is taken as it is: GitLab was asked for that time, and wrote it by its own clock.
    """
    millis = parse(text)
    return millis if millis is not None and _FIRST_STATED <= millis < _LAST_STATED else None


def retry_after(value: str | None, *, now: Millis) -> Millis | None:
    """A Retry-After header as a pause: seconds or a date (RFC 9110, section 10.2.3), and fractions of seconds, as
    chat services write them. None for anything else; a date that is past is no pause, but says something.
    """
    value = (value or "").strip()
    if _SECONDS.fullmatch(value):
        return Millis(math.ceil(float(value) * 1000))
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return Millis(max(0, (until - _EPOCH) // _MILLISECOND - now))


def iso(millis: Millis) -> str:
    """Write a time the way the ledger keeps it: `2026-11-24T16:45:00.123Z`.

    What lies outside the years 1 to 9999 is written as the nearest time that can be: a pause for ever ends then.
    """
    seconds, ms = divmod(min(max(millis, EARLIEST), LATEST), 1000)
    return f"{_to_the_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    """Formatting is slow, and most times of a batch are within a second."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[: len("2026-11-24T16:45:00")]


def from_iso(text: object) -> Millis:
    """Read back what `iso` wrote.

    Never raises, because whoever reads a row must not stop for it. A year that an older version wrote with fewer
    digits is read. Anything else, which only a person can have written, counts as 1970: what waits is due, and what
    was seen is old. Where that would hide something, use `written`.
    """
    return written(text) or Millis(0)


def written(text: object) -> Millis | None:
    """Read back what `iso` wrote; None for anything else."""
    if not isinstance(text, str):
        return None
    year, dash, rest = text.partition("-")
    return parse(f"{year:0>4}{dash}{rest}")
