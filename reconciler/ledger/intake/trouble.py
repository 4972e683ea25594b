"""Logs and reports that webhooks can't be appended: when that begins, while it lasts, and when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

REMIND_S = 60.0
"""How often a lasting problem is logged again."""

log = structlog.get_logger(__name__)


class Trouble:
    """`report` is called with the reason when webhooks can't be appended, and with None when they can be again."""

    def __init__(self, report: Callable[[str | None], None]) -> None:
        self._report = report
        self._why: str | None = None
        self._logged_at = 0.0

    def note(self, why: str | None) -> None:
        """What became of the last try."""
        before, self._why = self._why, why
        now = time.monotonic()
        if why is None:
            if before is not None:
                log.info("webhooks can be appended to the intake again")
        elif why != before or now - self._logged_at >= REMIND_S:
            self._logged_at = now
            log.error("webhooks can't be appended to the intake", reason=why)
        if why != before:
            self._report(why)
