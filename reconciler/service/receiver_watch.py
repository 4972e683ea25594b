"""The worker's view of the receiver: woken by what it appends, and told what goes wrong with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reconciler.service.role import Link
from reconciler.supervisor import Supervisor

LOOK_S = 0.5
RECEIVER = "receiver"


async def watch_receiver(link: Link, wake: Callable[[], None], supervisor: Supervisor) -> None:
    """Call `wake` when webhooks were appended, and note why none can be. Never ends."""

    def woken() -> None:
        link.read_all()
        wake()

    loop = asyncio.get_running_loop()
    loop.add_reader(link.woken, woken)
    try:
        supervisor.well(RECEIVER)
        noted: str | None = None
        while True:
            trouble = link.counts.trouble
            if trouble != noted:
                noted = trouble
                supervisor.note(RECEIVER, trouble)
            await asyncio.sleep(LOOK_S)
    finally:
        loop.remove_reader(link.woken)
