"""GitLab's rate limit, as its answers tell it: one for all threads, since GitLab counts by user."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from reconciler.events import times

DEFAULT_PAUSE_S = 10.0
"""After a 429 that says nothing of when to come again."""
LONGEST_PAUSE_S = 3600.0


class RateLimit:
    """Remembers when GitLab may be asked again. Times are those of the wall clock, in seconds.

    Only `share` of what the token may ask in a period is used. What others use of the same token (a backfill
    beside the service, a person) counts too: GitLab tells what remains for all of them together.
    """

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._reset_at = 0.0
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
            now = time.time()
            if self._not_before > now:
                return self._not_before - now
            if self.remaining is not None:
                if now >= self._reset_at:
                    self.remaining = None  # a new period: the next answer tells
                elif self.remaining <= self._reserve:
                    return min(self._reset_at - now, LONGEST_PAUSE_S)
                else:
                    self.remaining -= 1
            return 0.0

    def _note_remaining(self, remaining: int, headers: Mapping[str, str]) -> None:
        """Answers overtake each other: within a period, the lowest figure is the newest."""
        reset_at = time.time() + _until_reset(headers)
        same_period = abs(reset_at - self._reset_at) < 1.5
        if self.remaining is None or not same_period or remaining < self.remaining:
            self.remaining = remaining
        self._reset_at = reset_at

    def _hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.time() + min(max(seconds, 0.0), LONGEST_PAUSE_S))


def _pause(headers: Mapping[str, str]) -> float:
    pause = times.retry_after(headers.get("Retry-After"), now=times.now())
    return _until_reset(headers) if pause is None else pause / 1000


def _is_figure(value: str) -> bool:
    """Whether a header holds a number that can be read as one."""
    return value.isascii() and value.isdigit() and len(value) < 20


def _until_reset(headers: Mapping[str, str]) -> float:
    reset = headers.get("RateLimit-Reset", "")
    return float(reset) - time.time() if _is_figure(reset) else 0.0
