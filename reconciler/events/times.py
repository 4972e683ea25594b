"""Reads GitLab's time formats and writes ours. No other module does.

Inside the program a time is an integer: milliseconds since 1970-01-01T00:00Z. In the ledger, in logs and on every
screen it is text: UTC, ISO 8601 with milliseconds, ending in `Z`. Years have four digits, so that texts sort like
their times; times outside that range are not supported.
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
"""Milliseconds: a time since the Unix epoch, UTC, or a duration. It is a type of its own so that seconds are not
passed by mistake."""

SECOND = Millis(1_000)
MINUTE = Millis(60 * SECOND)
HOUR = Millis(60 * MINUTE)
DAY = Millis(24 * HOUR)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

EARLIEST = Millis((datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND)
LATEST = Millis((datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND)
"""The range of times with four-digit years."""

_SECONDS = re.compile(r"[0-9]{1,19}(\.[0-9]{0,19})?")

_FIRST_STATED = Millis((datetime(2011, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND)
"""GitLab was first released in October 2011."""
_LAST_STATED = Millis((datetime(2100, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND)


def now() -> Millis:
    """The wall clock."""
    return Millis(_time.time_ns() // 1_000_000)


class SteadyClock:
    """A monotonic clock that starts at the wall clock's time. Setting the wall clock does not change it.

    It is for pauses and due times, so that setting the wall clock neither ends nor prolongs a wait.
    """

    def __init__(self) -> None:
        self._began = _time.time_ns() - _time.monotonic_ns()

    def __call__(self) -> Millis:
        return Millis((self._began + _time.monotonic_ns()) // 1_000_000)


def parse(text: object) -> Millis | None:
    """Read a time as GitLab writes it; None for anything else, and outside the years 1 to 9999 in UTC.

    GitLab writes `2013-12-03T17:15:43Z`, `2015-05-17 18:08:09 UTC` and `2023-11-20 18:21:41 +0100`, with or
    without fractions, depending on the kind of webhook. A time without a zone counts as UTC.
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
    """The time that a webhook's body states; None for a time that can't be true.

    Importers write `0001-01-01` and scripts `9999-12-31` for an unknown time. The bounds are fixed, so that all
    webhooks of an event are treated alike, whenever they are read. Times in GitLab's lists are not checked like this:
    GitLab wrote them by its own clock.
    """
    millis = parse(text)
    return millis if millis is not None and _FIRST_STATED <= millis < _LAST_STATED else None


def retry_after(value: str | None, *, now: Millis) -> Millis | None:
    """The pause of a Retry-After header: seconds or a date (RFC 9110, section 10.2.3), or fractions of seconds, which
    chat services send. None for anything else; 0 for a date in the past.
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
    """Write a time as the ledger stores it: `2026-11-24T16:45:00.123Z`.

    A time outside the years 1 to 9999 becomes the nearest one inside.
    """
    seconds, ms = divmod(min(max(millis, EARLIEST), LATEST), 1000)
    return f"{_to_the_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    """Cached because formatting is slow, and most times of a batch are within a second."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[: len("2026-11-24T16:45:00")]


def from_iso(text: object) -> Millis:
    """Read a time that `iso` wrote.

    Never raises, so that a bad value does not stop the reading of a row. A year with fewer digits, as older versions
    wrote it, is read. Anything else, which only a person can have written, counts as 1970: pending work is due then.
    Use `written` where that would hide a problem.
    """
    return written(text) or Millis(0)


def written(text: object) -> Millis | None:
    """Read a time that `iso` wrote; None for anything else."""
    if not isinstance(text, str):
        return None
    year, dash, rest = text.partition("-")
    return parse(f"{year:0>4}{dash}{rest}")
