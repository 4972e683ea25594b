"""Builds the configured destinations once: errors are reported when the config is read, not when it is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from reconciler.config.destination_kinds import find_kind, kind_error
from reconciler.config.destinations import Destination

CLOSE_PATIENCE_S = 2.0


def unbuildable(destinations: Iterable[Destination]) -> dict[int, str]:
    """The error of each destination that can't be built, by its index in the config.

    Each is built and closed again, without connecting to anything. Runs in its own thread and event loop, so that it
    also works where an event loop is running.
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
            found[place] = kind_error(destination.kind, "it can't be built", error)
            continue
        with contextlib.suppress(Exception):  # the destination works all the same
            await asyncio.wait_for(kind.close(), CLOSE_PATIENCE_S)
    return found
