"""Keeping a part of the forwarder running: what fails begins again after a pause, and says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from reconciler.ledger.errors import LedgerUnavailable

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between two starts of what fails again and again. What ran so long without failing begins with the first."""


async def keep_running(
    run: Callable[[], Awaitable[None]], *, stopping: asyncio.Event, log: structlog.stdlib.BoundLogger
) -> None:
    """Await `run()` until it returns; where it raises, do so again after a pause that grows, or once `stopping`."""
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE_S
    while True:
        began = loop.time()
        try:
            await run()
        except LedgerUnavailable as error:  # not its own fault, and the writer has said more
            log.warning("interrupted: begins again", error=str(error), pause_s=pause)
        except Exception as error:
            log.exception("failed: begins again", error=repr(error), pause_s=pause)
        else:
            return
        if loop.time() - began > LONGEST_PAUSE_S:
            pause = FIRST_PAUSE_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stopping.wait()
        pause = min(2 * pause, LONGEST_PAUSE_S)
