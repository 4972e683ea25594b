"""Logs and reports that webhooks can't be appended: when that begins, while it lasts, and when it is over."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from reconciler.ledger.reminder import Reminder

log = structlog.get_logger(__name__)


class Trouble:
    """`report` is called with the reason when webhooks can't be appended, and with None when they can be again."""

    def __init__(self, report: Callable[[str | None], None]) -> None:
        self._report = report
        self._why: str | None = None
        self._reminder = Reminder()

    def note(self, why: str | None) -> None:
        """What became of the last try."""
        before, self._why = self._why, why
        if self._reminder.is_due(why):
            if why is None:
                log.info("webhooks can be appended to the intake again")
            else:
                log.error("webhooks can't be appended to the intake", reason=why)
        if why != before:
            self._report(why)
