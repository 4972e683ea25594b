"""The one place where GitLab's several time formats are read and ours is written.

Inside the program a time is an integer: milliseconds since 1970-01-01T00:00Z. In the ledger, in logs and on
every screen it is text: UTC, ISO 8601 with milliseconds, ending in `Z`.
"""

from __future__ import annotations

import time as _time
from datetime import UTC, datetime, timedelta
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
    """Read a time as GitLab writes it; None for anything that is not one.

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
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return Millis((moment - _EPOCH) // _MILLISECOND)
    except (ValueError, OverflowError):
        return None


def iso(millis: Millis) -> str:
    """Write a time the way the ledger keeps it: `2026-11-24T16:45:00.123Z`."""
    seconds, ms = divmod(millis, 1000)
    return f"{_to_the_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    """Formatting is slow, and most times of a batch are within a second."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def from_iso(text: str) -> Millis:
    """Read back what `iso` wrote.

    Raises ValueError for anything else.
    """
    millis = parse(text)
    if millis is None:
        raise ValueError(f"not a time: {text!r}")
    return millis
