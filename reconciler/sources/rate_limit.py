"""Keeps to GitLab's rate limit, as its answers state it. All threads share it, because GitLab counts by user."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from reconciler.events import times
from reconciler.events.times import Millis

DEFAULT_PAUSE_S = 10.0
"""The pause after a 429 without a Retry-After."""
LONGEST_PAUSE_S = 3600.0


class GitLabRateLimit:
    """Knows when GitLab may be asked again. It uses a monotonic clock, in seconds, so that a pause is as long as
    GitLab says, even if this machine's time is wrong.

    Only `share` of the token's requests in a period is used. Requests of others with the same token (a backfill
    beside the service, a person) count too: GitLab reports what remains for all of them together.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._reset_at = 0.0
        self._period: int | None = None
        """The end of the current period, by GitLab's clock."""
        self._reserve = 0.0
        self.remaining: int | None = None
        """How many requests remain in this period, by the last answer and the requests since."""

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        """Read an answer's `RateLimit-*` and `Retry-After` headers (docs/gitlab.md, "Rate limits")."""
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
        """Reserve one request. Returns 0.0, or the seconds to wait before trying again."""
        with self._lock:
            now = time.monotonic()
            if self._not_before > now:
                return self._not_before - now
            if self.remaining is not None:
                if now >= self._reset_at:
                    self.remaining = None  # a new period: the next answer says how many remain
                elif self.remaining <= self._reserve:
                    return self._reset_at - now
                else:
                    self.remaining -= 1
            return 0.0

    def _note_remaining(self, remaining: int, headers: Mapping[str, str]) -> None:
        """Answers can overtake each other: within a period, the lowest figure is the newest."""
        period = _reset(headers)
        reset_at = time.monotonic() + _until_reset(headers)
        if self.remaining is None or period is None or self._period is None or abs(period - self._period) > 1:
            self.remaining, self._reset_at = remaining, reset_at
        else:
            self.remaining = min(remaining, self.remaining)
            self._reset_at = min(reset_at, self._reset_at)  # the answer that took longest states a later time
        self._period = period

    def _hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.monotonic() + min(seconds, LONGEST_PAUSE_S))


def _pause(headers: Mapping[str, str]) -> float:
    pause = times.retry_after(headers.get("Retry-After"), now=_answered_at(headers))
    return _until_reset(headers) if pause is None else pause / 1000


def _is_figure(value: str) -> bool:
    """Whether a header is a number that can be parsed."""
    return value.isascii() and value.isdigit() and len(value) < 20


def _reset(headers: Mapping[str, str]) -> int | None:
    reset = headers.get("RateLimit-Reset", "")
    return int(reset) if _is_figure(reset) else None


def _until_reset(headers: Mapping[str, str]) -> float:
    reset = _reset(headers)
    return 0.0 if reset is None else min(max(reset - _answered_at(headers) / 1000, 0.0), LONGEST_PAUSE_S)


def _answered_at(headers: Mapping[str, str]) -> Millis:
    """The time of an answer by GitLab's clock, which its other headers use; by this machine's if it is not given."""
    try:
        return Millis(round(parsedate_to_datetime(headers.get("Date", "")).timestamp() * 1000))
    except (ValueError, OverflowError):
        return times.now()
