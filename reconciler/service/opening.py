"""Opens the ledger, and begins to write to it, as soon as that is possible: webhooks wait in the intake meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerUnavailable
from reconciler.ledger.reminder import Reminder
from reconciler.ledger.storage.connection import connect, may_come_right, open_to_serve, unfit
from reconciler.ledger.storage.database import Database
from reconciler.location import Location, PostgresUrl

PAUSE_S = 1.0
PATIENCE_S = 1.0
LOOK_S = 60.0
"""How often a copy that stands by looks whether it could take over."""

log = structlog.get_logger(__name__)


async def open_ledger(
    location: Location, *, stands_by: Callable[[], None], trouble: Callable[[str | None], None]
) -> Database:
    """Open the ledger as soon as possible, and in PostgreSQL as soon as no other worker has it. `stands_by` is called
    if one has. `trouble` is called with the reason if it can't be opened, or if this copy could not take it over, and
    with None when that is past. Raises LedgerError if waiting does not help.
    """
    if isinstance(location, Path):
        return await _open_file(location, _Trouble(trouble))
    return await _take_over(location, _Trouble(trouble), stands_by)


async def _open_file(path: Path, trouble: _Trouble) -> Database:
    while True:
        try:
            return await asyncio.to_thread(connect, path, patience_s=PATIENCE_S)
        except LedgerUnavailable as error:
            if not may_come_right(error.__cause__):
                raise
            trouble.note("ledger not available yet: webhooks wait in the intake", str(error))
        await asyncio.sleep(PAUSE_S)


async def _take_over(url: PostgresUrl, trouble: _Trouble, stands_by: Callable[[], None]) -> Database:
    is_waiting, look_at = False, 0.0
    while True:
        try:
            held = await asyncio.to_thread(open_to_serve, url, patience_s=PATIENCE_S)
            if held is not None:
                return held
            if not is_waiting:
                log.info("standing by: the worker of another copy has the ledger")
                stands_by()
            is_waiting = True
            if time.monotonic() >= look_at:
                why = await asyncio.to_thread(unfit, url)
                look_at = time.monotonic() + LOOK_S
                trouble.note("standing by, but this copy could not take over", why)
        except LedgerError as error:
            if not (is_waiting or isinstance(error, LedgerUnavailable)):
                raise
            trouble.note("ledger not available yet: webhooks are answered with 503", str(error))
            look_at = 0.0
        await asyncio.sleep(PAUSE_S)


class _Trouble:
    """Logs and reports what keeps the ledger from being opened: when it begins or changes, and while it lasts."""

    def __init__(self, report: Callable[[str | None], None]) -> None:
        self._report = report
        self._why: str | None = None
        self._reminder = Reminder()

    def note(self, what: str, why: str | None) -> None:
        """What became of the last try."""
        before, self._why = self._why, why
        if self._reminder.is_due(why):
            if why is None:
                log.info("standing by: this copy could take over again")
            else:
                log.error(what, reason=why)
        if why != before:
            self._report(why)


async def when_writable(do: Callable[[], Awaitable[object]]) -> None:
    """Call `do` as soon as the ledger can be written. Raises LedgerDamaged."""
    while True:
        try:
            await do()
        except LedgerDamaged:
            raise
        except LedgerUnavailable:  # logged by the writer
            await asyncio.sleep(PAUSE_S)
        else:
            return
