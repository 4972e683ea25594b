"""When a lasting problem is logged: when it begins, when its reason changes, and once a minute."""

from __future__ import annotations

import time

REMIND_S = 60.0
"""How often a lasting problem is logged again."""


class Reminder:
    """Remembers what was logged last."""

    def __init__(self) -> None:
        self._why: str | None = None
        self._logged_at = 0.0

    def is_due(self, why: str | None) -> bool:
        """Whether to log a problem, or (None) that it is over."""
        before, self._why = self._why, why
        if why is None:
            return before is not None
        now = time.monotonic()
        if why == before and now - self._logged_at < REMIND_S:
            return False
        self._logged_at = now
        return True
