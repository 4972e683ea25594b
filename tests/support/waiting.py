"""Waiting, in a loop, for what tells nobody when it comes to be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Wait for it; the test's own time-out ends what never comes."""
    while not condition():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.002)
