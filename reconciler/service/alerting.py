"""Checks for conditions that need an alert. Each is reported once when it opens and once when it is over."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

import structlog

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger import alerts
from reconciler.ledger.alerts import Condition
from reconciler.ledger.coverage.gaps import Gap
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.views.unknowns import Known
from reconciler.metrics.collectors import state
from reconciler.polling.knowledge import asked, missed

CHECK_INTERVAL_S = 5.0

log = structlog.get_logger(__name__)


class Alerting:
    """Reports alerts. `check_soon` requests a check at once."""

    def __init__(
        self,
        config: Callable[[], Config],
        *,
        known: Callable[[], Known],
        ledger: Ledger,
    ) -> None:
        self._config = config
        self._known = known
        self._ledger = ledger
        self._reading: list[Condition] | None = None
        """The last known conditions about reading GitLab; None before the first check."""
        self._wanted = asyncio.Event()

    def check_soon(self) -> None:
        """Something happened that may need an alert."""
        self._wanted.set()

    async def run(self) -> None:
        """Check repeatedly. Never ends."""
        while True:
            self._wanted.clear()
            pause = await self._review()
            try:
                await asyncio.wait_for(self._wanted.wait(), pause)
            except TimeoutError:
                continue

    async def _review(self) -> float:
        """Check, and report changes. Returns the seconds until the next check."""
        now, config = times.now(), self._config()
        hold = {one.name: one.breaker.recovery_hold for one in config.destinations}
        found = self._ledger.alerts.destination_conditions(hold=hold, now=now)
        try:
            found += self._ledger.alerts.recording_conditions(now)
            found += self._ledger.alerts.receiver_conditions(now)
            found += await self._not_known(config, now)
        except (LedgerError, sqlite3.Error) as error:
            self._ledger.report_damage(error)
            return CHECK_INTERVAL_S
        if self._ledger.alerts.changes(found):
            try:
                texts = await self._ledger.alerts.note(found, now)
            except LedgerError:  # the writer has logged it
                return CHECK_INTERVAL_S
            for text in texts:
                log.warning("alert", text=text)
        lasting = [one.since + hold[one.subject] - now for one in found if one.subject in hold and one.only_lasts]
        return min([CHECK_INTERVAL_S, *(max(pause, 50) / 1000 for pause in lasting)])

    async def _not_known(self, config: Config, now: Millis) -> list[Condition]:
        """Conditions about what can't be read from GitLab, and about gaps that soon can't be closed any more. Without
        a token there are none.
        """
        if config.gitlab.token is None:
            return []
        try:
            known = await asyncio.to_thread(self._known)
            found = alerts.reading_conditions(known.unknowns, asked(config, now), missed(config, now))
            self._reading = found + expiring_gaps(self._ledger, known.gaps, now)
        except (LedgerError, sqlite3.Error) as error:
            if self._reading is None:
                raise
            log.warning("coverage not read: alerts keep their last state", error=str(error))
        return self._reading


def expiring_gaps(ledger: Ledger, found: list[Gap], now: Millis) -> list[Condition]:
    """Conditions for gaps that soon can't be closed: one for each project, whatever the number of sources."""
    expiring = [gap for gap in found if state(gap, now) == "expiring"]
    paths = {ident: path for path, ident in ledger.coverage.project_ids().items()} if expiring else {}
    by_project: dict[int, list[Gap]] = {}
    for gap in expiring:
        by_project.setdefault(gap.project_id, []).append(gap)
    conditions = []
    for project_id, some in by_project.items():
        name = paths.get(project_id, str(project_id))
        first = min(gap.during.start for gap in some)
        until = min(gap.closable_until for gap in some if gap.closable_until is not None)
        sources = ", ".join(sorted({gap.source for gap in some}))
        text = (
            f"{name}: a gap since {times.iso(first)} ({sources}) becomes final at {times.iso(until)}, when GitLab "
            "deletes the missing data: `gaps` says why it is open, `backfill --gaps` tries to close it"
        )
        conditions.append(Condition("gap_expiring", name, first, text))
    return conditions
