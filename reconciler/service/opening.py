"""Opens the ledger, and begins to write to it, as soon as that is possible: webhooks wait in the intake meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from reconciler.ledger.errors import LedgerDamaged, LedgerUnavailable
from reconciler.ledger.storage.connection import connect, may_come_right, open_as_copy
from reconciler.ledger.storage.database import Database
from reconciler.location import Location

PAUSE_S = 1.0
PATIENCE_S = 1.0

log = structlog.get_logger(__name__)


async def open_ledger(location: Location, waits: Callable[[], None]) -> tuple[Database, bool]:
    """Open the ledger as soon as possible, and say whether this process is its worker: with a ledger in PostgreSQL
    another copy's may be. `waits` is called if this copy can do nothing yet but receive. Raises LedgerError if
    waiting does not help.
    """
    is_logged = is_waiting = False
    while True:
        try:
            if isinstance(location, Path):
                return await asyncio.to_thread(connect, location, patience_s=PATIENCE_S), True
            db, is_worker = await asyncio.to_thread(open_as_copy, location, patience_s=PATIENCE_S)
            if db is not None:
                return db, is_worker
            if not is_waiting:
                log.info("waiting: a service of another version, or `ledger copy`, has the ledger")
                waits()
            is_waiting = True
        except LedgerUnavailable as error:
            if isinstance(location, Path) and not may_come_right(error.__cause__):
                raise
            if not is_logged:
                then = "wait in the intake" if isinstance(location, Path) else "are answered with 503"
                log.error(f"ledger not available yet: webhooks {then}", reason=str(error))
            is_logged = True
        await asyncio.sleep(PAUSE_S)


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
