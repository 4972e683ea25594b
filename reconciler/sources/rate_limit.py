"""GitLab's rate limit, as its answers tell it: one for all threads, since GitLab counts by user."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from reconciler.events import times
from reconciler.events.times import Millis

DEFAULT_PAUSE_S = 10.0
"""After a 429 that says nothing of when to come again."""
LONGEST_PAUSE_S = 3600.0


class GitLabRateLimit:
    """Remembers when GitLab may be asked again, by a steady clock, in seconds: however wrong this machine's time
    is, or becomes, a pause is as long as GitLab says by its own.

    Only `share` of what the token may ask in a period is used. What others use of the same token (a backfill
    beside the service, a person) counts too: GitLab tells what remains for all of them together.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._reset_at = 0.0
        self._period: int | None = None
        """The end of the period that `remaining` is about, by GitLab's clock."""
        self._reserve = 0.0
        self.remaining: int | None = None
        """What remains in this period, going by the last answer and by what was asked since."""

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        """Read an answer's `RateLimit-*` and `Retry-After` headers (gitlab-facts, section 6)."""
        remaining, limit = headers.get("RateLimit-Remaining", ""), headers.get("RateLimit-Limit", "")
        with self._lock:
            if _is_figure(remaining):
                self._note_remaining(int(remaining), headers)
            if _is_figure(limit):
                self._reserve = int(limit) * (1 - self._share)
            if status == 429:
                self._hold(_pause(headers) or DEFAULT_PAUSE_S)
            elif _is_figure(remaining) and int(remaining) == 0:
                self._hold(_until_reset(headers))

    def take(self) -> float:
        """Take leave for one request: 0.0, or how many seconds to wait before asking for leave again."""
        with self._lock:
            now = time.monotonic()
            if self._not_before > now:
                return self._not_before - now
            if self.remaining is not None:
                if now >= self._reset_at:
                    self.remaining = None  # a new period: the next answer tells
                elif self.remaining <= self._reserve:
                    return self._reset_at - now
                else:
                    self.remaining -= 1
            return 0.0

    def _note_remaining(self, remaining: int, headers: Mapping[str, str]) -> None:
        """Answers overtake each other: within a period, the lowest figure is the newest."""
        period = _reset(headers)
        reset_at = time.monotonic() + _until_reset(headers)
        if self.remaining is None or period is None or self._period is None or abs(period - self._period) > 1:
            self.remaining, self._reset_at = remaining, reset_at
        else:
            self.remaining = min(remaining, self.remaining)
            self._reset_at = min(reset_at, self._reset_at)  # what was longest under way says a later one
        self._period = period

    def _hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.monotonic() + min(seconds, LONGEST_PAUSE_S))


def _pause(headers: Mapping[str, str]) -> float:
    pause = times.retry_after(headers.get("Retry-After"), now=_answered_at(headers))
    return _until_reset(headers) if pause is None else pause / 1000


def _is_figure(value: str) -> bool:
    """Whether a header holds a number that can be read as one."""
    return value.isascii() and value.isdigit() and len(value) < 20


def _reset(headers: Mapping[str, str]) -> int | None:
    reset = headers.get("RateLimit-Reset", "")
    return int(reset) if _is_figure(reset) else None


def _until_reset(headers: Mapping[str, str]) -> float:
    reset = _reset(headers)
    return 0.0 if reset is None else min(max(reset - _answered_at(headers) / 1000, 0.0), LONGEST_PAUSE_S)


def _answered_at(headers: Mapping[str, str]) -> Millis:
    """When GitLab said it, by its own clock, which the moments that it names go by; ours, where it does not say."""
    try:
        return Millis(round(parsedate_to_datetime(headers.get("Date", "")).timestamp() * 1000))
    except (ValueError, OverflowError):
        return times.now()
