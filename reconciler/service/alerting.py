"""Looks at what people want to be told of, and has each thing said once, and once when it is over."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

import structlog
from sqlite_utils import Database

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger import alerts
from reconciler.ledger.alerts import Condition
from reconciler.ledger.coverage.gaps import Gap
from reconciler.ledger.coverage.runs import project_paths
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.intake.writer import Writer
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.views.unknowns import Known
from reconciler.metrics.collectors import state
from reconciler.polling.knowledge import asked, missed

LOOK_S = 5.0

log = structlog.get_logger(__name__)


class Alerting:
    """`look` asks for a look at once. `on_opened` is told of the deliveries that alerts opened."""

    def __init__(
        self,
        config: Callable[[], Config],
        *,
        known: Callable[[], Known],
        db: Database,
        writer: Writer,
    ) -> None:
        self._config = config
        self._known = known
        self._db = db
        self._writer = writer
        self.on_opened: Callable[[list[Opened]], None] = lambda _: None
        self._reading: list[Condition] | None = None
        """What could not be read when it was last found out; None before the first time."""
        self._wanted = asyncio.Event()

    def look(self) -> None:
        """Something happened that an alert may be about."""
        self._wanted.set()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self._wanted.clear()
            try:
                pause = await self._review()
            except LedgerError:  # whoever met it has said so
                pause = LOOK_S
            try:
                await asyncio.wait_for(self._wanted.wait(), pause)
            except TimeoutError:
                continue

    async def _review(self) -> float:
        """Look, and say what is to be said. Returns in how many seconds to look again."""
        now, config = times.now(), self._config()
        settle = {one.name: one.breaker.recovery_hold for one in config.destinations}
        found = alerts.destination_conditions(self._db, settle=settle, now=now)
        found += await self._not_known(config, now)
        if alerts.changes(self._db, found):
            routes = self._writer.routes
            said = await self._writer.run(lambda db: alerts.note(db, found, now=now, routes=routes))
            for one in said.texts:
                log.warning("alert", text=one)
            self.on_opened(said.opened)
        lasting = [one.since + settle[one.subject] - now for one in found if one.subject in settle and one.only_lasts]
        return min([LOOK_S, *(max(pause, 50) / 1000 for pause in lasting)])

    async def _not_known(self, config: Config, now: Millis) -> list[Condition]:
        """What can't be read of GitLab, and the gaps that it is about to forget. Nobody expects either without a
        token.
        """
        if config.gitlab.token is None:
            return []
        try:
            known = await asyncio.to_thread(self._known)
            found = alerts.reading_conditions(known.unknowns, asked(config, now), missed(config, now))
            self._reading = found + expiring_gaps(self._db, known.gaps, now)
        except (LedgerError, sqlite3.Error) as error:
            if self._reading is None:
                raise
            log.warning("what is not known can't be found out: it is taken to be as it was", error=str(error))
        return self._reading


def expiring_gaps(db: Database, found: list[Gap], now: Millis) -> list[Condition]:
    """The gaps that GitLab is about to forget: one condition a project, however many sources it concerns."""
    return _conditions([gap for gap in found if state(gap, now) == "expiring"], db)


def _conditions(expiring: list[Gap], db: Database) -> list[Condition]:
    paths = {ident: path for path, ident in project_paths(db).items()} if expiring else {}
    by_project: dict[int, list[Gap]] = {}
    for gap in expiring:
        by_project.setdefault(gap.project_id, []).append(gap)
    found = []
    for project_id, some in by_project.items():
        name = paths.get(project_id, str(project_id))
        first = min(gap.during.start for gap in some)
        until = min(gap.closable_until for gap in some if gap.closable_until is not None)
        sources = ", ".join(sorted({gap.source for gap in some}))
        text = (
            f"{name}: a gap since {times.iso(first)} ({sources}) becomes final at {times.iso(until)}, when GitLab "
            "forgets what is missing: `gaps` says why it is open, `backfill --gaps` tries to close it"
        )
        found.append(Condition("gap_expiring", name, first, text))
    return found
