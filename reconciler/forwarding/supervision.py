"""Keeping the forwarder's parts running: one that fails begins again after a pause, and says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from reconciler.ledger.errors import LedgerUnavailable

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
WELL_AFTER_S = 10.0
"""How long a part must have run before it counts as well, and its next failure as a first one."""

log = structlog.get_logger(__name__)


async def keep_running(
    part: str,
    run: Callable[[], Awaitable[None]],
    *,
    stopping: asyncio.Event,
    tell: Callable[[str, Exception | None], None],
) -> None:
    """Await `run()` until it returns. Where it raises, do so again after a pause that grows; once more, and no more,
    when `stopping`.

    `tell` is called with the part's name and why it failed, and with None once it is well again.
    """
    pause = 0.0

    def is_well() -> None:
        nonlocal pause
        if pause:
            log.info("runs again", part=part)
            tell(part, None)
        pause = 0.0

    while True:
        is_last = stopping.is_set()
        timer = asyncio.get_running_loop().call_later(WELL_AFTER_S, is_well)
        try:
            await run()
        except Exception as error:
            pause = min(2 * pause or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            trouble = isinstance(error, LedgerUnavailable)  # the writer has said more
            log.error("failed, begins again", part=part, error=str(error), pause_s=pause, exc_info=not trouble)
            tell(part, error)
            if is_last:
                tell(part, None)  # it is no part any more
                return
        else:
            is_well()
            return
        finally:
            timer.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stopping.wait()
