"""Trying out what a config names: what can't be built must be said when the config is read, not when it is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from reconciler.config.destinations import Destination
from reconciler.config.kinds import find_kind, told

CLOSE_PATIENCE_S = 2.0


def unbuildable(destinations: Iterable[Destination]) -> dict[int, str]:
    """The destinations whose way out can't be built, by their place in the config, and why.

    Each is built and closed again; nothing is connected to. A thread and an event loop of its own make it work
    wherever a config is read.
    """
    wanted = list(destinations)
    if not wanted:
        return {}
    with ThreadPoolExecutor(1) as one:
        return one.submit(lambda: asyncio.run(_try_out(wanted))).result()


async def _try_out(wanted: list[Destination]) -> dict[int, str]:
    found: dict[int, str] = {}
    for place, destination in enumerate(wanted):
        try:
            kind = find_kind(destination.kind)(destination)
            _ = kind.address
        except (Exception, SystemExit) as error:
            found[place] = told(destination.kind, "it can't be built", error)
            continue
        with contextlib.suppress(Exception):  # its own trouble: it works for all that
            await asyncio.wait_for(kind.close(), CLOSE_PATIENCE_S)
    return found
