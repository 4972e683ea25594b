"""Removes from the intake what was recorded, and gives the freed space back to the disk."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from functools import partial

from reconciler.ledger.intake.intake import Reader
from reconciler.ledger.ledger import Ledger

TRIM_S = 0.5
"""How often the intake is trimmed."""
TRIM_PAUSE_S = 0.005
"""The pause between two steps, if a step takes no longer: what waits for SQLite's lock retries only now and then."""


class Trimmer:
    """Removes what was recorded from the intake that `open_intake` opens, and keeps its file small and its WAL short.
    `run` never ends; if it raises, it may be run again.
    """

    def __init__(self, open_intake: Callable[[], Reader], *, ledger: Ledger) -> None:
        self._open_intake = open_intake
        self._ledger = ledger

    async def run(self) -> None:
        """Remove what was recorded. Never ends. Raises IntakeUnavailable."""
        while True:
            with contextlib.closing(await asyncio.to_thread(self._open_intake)) as intake:
                while not intake.is_replaced():
                    place = self._ledger.recording.place()
                    if place is not None and place.intake_id == intake.intake_id:
                        await asyncio.to_thread(_trim, intake, place.position)
                    await asyncio.sleep(TRIM_S)


def _trim(intake: Reader, through: int) -> None:
    _in_steps(partial(intake.trim, through=through))
    _in_steps(intake.give_back, at_most_s=TRIM_S)  # then it is trimmed again
    intake.checkpoint()


def _in_steps(step: Callable[[], bool], *, at_most_s: float = math.inf) -> None:
    """Do a step until it returns False or so much time has passed."""
    end = time.monotonic() + at_most_s
    while (began := time.monotonic()) < end and step():
        time.sleep(max(TRIM_PAUSE_S, time.monotonic() - began))  # the receiver appends meanwhile
