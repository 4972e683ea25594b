"""Opens the ledger, and begins to write to it, as soon as that is possible: webhooks wait in the intake meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from reconciler.ledger.errors import LedgerDamaged, LedgerUnavailable
from reconciler.ledger.storage.connection import connect, may_come_right
from reconciler.ledger.storage.sqlite import SqliteDatabase

PAUSE_S = 1.0
PATIENCE_S = 1.0

log = structlog.get_logger(__name__)


async def open_ledger(path: Path) -> SqliteDatabase:
    """Open the ledger as soon as possible. Raises LedgerError if waiting does not help."""
    is_logged = False
    while True:
        try:
            return await asyncio.to_thread(connect, path, patience_s=PATIENCE_S)
        except LedgerUnavailable as error:
            if not may_come_right(error.__cause__):
                raise
            if not is_logged:
                log.error("ledger not available yet: webhooks wait in the intake", reason=str(error))
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
