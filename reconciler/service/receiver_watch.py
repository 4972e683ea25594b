"""How the worker follows the receiver: it is woken when webhooks are appended, and notes what fails."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from reconciler.service.role import Link
from reconciler.supervisor import Supervisor

CHECK_INTERVAL_S = 0.5
MANY_RESTARTS = 3
"""A receiver whose process was restarted this many times within `RESTARTS_WITHIN_S` is failing."""
RESTARTS_WITHIN_S = 60.0
RECEIVER = "receiver"


async def watch_receiver(link: Link, wake: Callable[[], None], supervisor: Supervisor) -> None:
    """Call `wake` when webhooks were appended, and note why they can't be. Never ends."""

    def woken() -> None:
        link.read_all()
        wake()

    loop = asyncio.get_running_loop()
    loop.add_reader(link.wake_reader, woken)
    try:
        supervisor.well(RECEIVER)
        noted: str | None = None
        restarts = _Restarts(link)
        while True:
            trouble = link.counts.trouble or restarts.trouble()
            if trouble != noted:
                noted = trouble
                supervisor.note(RECEIVER, trouble)
            await asyncio.sleep(CHECK_INTERVAL_S)
    finally:
        loop.remove_reader(link.wake_reader)


class _Restarts:
    """How often the receiver's process was restarted recently."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._known = link.counts.restarts(RECEIVER)
        self._at: deque[float] = deque(maxlen=MANY_RESTARTS)

    def trouble(self) -> str | None:
        """Why the receiver counts as failing; None if it does not."""
        now, count = time.monotonic(), self._link.counts.restarts(RECEIVER)
        self._at.extend([now] * min(MANY_RESTARTS, count - self._known))
        self._known = count
        if len(self._at) == MANY_RESTARTS and now - self._at[0] <= RESTARTS_WITHIN_S:
            return f"its process ended {MANY_RESTARTS} times within {RESTARTS_WITHIN_S:.0f} s, and is started again"
        return None
