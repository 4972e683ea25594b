"""GitLab's rate limit, as its answers tell it: one for all threads, since GitLab counts by user."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

DEFAULT_PAUSE_S = 10.0
"""After a 429 that says nothing of when to come again."""
LONGEST_PAUSE_S = 3600.0


class RateLimit:
    """Remembers when GitLab may be asked again. Times are those of the wall clock, in seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._not_before = 0.0
        self.remaining: int | None = None

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        """Read an answer's `RateLimit-*` and `Retry-After` headers (gitlab-facts, section 6)."""
        remaining = headers.get("RateLimit-Remaining", "")
        with self._lock:
            if remaining.isdigit():
                self.remaining = int(remaining)
            if status == 429:
                self._hold(_pause(headers) or DEFAULT_PAUSE_S)
            elif remaining.isdigit() and int(remaining) == 0:
                self._hold(_until_reset(headers))

    def pause(self) -> float:
        """How many seconds to wait before the next request."""
        with self._lock:
            return max(0.0, self._not_before - time.time())

    def _hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.time() + min(max(seconds, 0.0), LONGEST_PAUSE_S))


def _pause(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            pass
    return _until_reset(headers)


def _until_reset(headers: Mapping[str, str]) -> float:
    reset = headers.get("RateLimit-Reset", "")
    return float(reset) - time.time() if reset.isdigit() else 0.0
