"""`make copies`: three copies of the service under load, with faults chosen at random, for as long as you like.

Prints each fault, and at the end what was found. Exits with 1 if a webhook that was acknowledged is lost, an event is
there twice or comes out of order, or a delivery is repeated without a fault. SEED repeats a choice of faults.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from tests.support.copies import Copies, Copy, running
from tests.support.copies_faults import Database, Faults, database
from tests.support.copies_proof import proven

DURATION_S = float(os.environ.get("DURATION", "120"))
SEED = int(os.environ.get("SEED", "1"))
CALM_S = 5.0
"""At most so long nothing new is done."""
SHORT_S, LONG_S = 3.0, 30.0


def schedule(dice: random.Random, seconds: float) -> list[tuple[float, str, int, float]]:
    """When what is done, to which copy, and for how long. Each kind comes before one comes again; the standby is
    promoted once, about half way.
    """
    found: list[tuple[float, str, int, float]] = []
    at, kinds = 0.0, list[str]()
    while (at := at + dice.uniform(0.5, CALM_S)) < seconds:
        kinds = kinds or dice.sample(["kill", "stop", "cut", "freeze", "restart"], 5)
        kind = kinds.pop()
        lasts = LONG_S if kind == "stop" else dice.uniform(SHORT_S, LONG_S) if kind == "freeze" else SHORT_S
        found.append((at, kind, dice.randrange(3), lasts))
    return sorted([*found, (seconds / 2, "fail_over", 0, 0.0)])


def run(copies: Copies, server: Database, plan: Sequence[tuple[float, str, int, float]]) -> Faults:
    """Do all of it. A copy that is still in one fault is spared the next."""
    faults, began, over = Faults(), time.monotonic(), Event()
    to_a_copy: dict[str, Callable[[Copy, Callable[[], object]], None]] = {
        "kill": faults.kill, "stop": faults.stop, "cut": faults.cut, "freeze": faults.freeze,
    }  # fmt: skip
    to_the_database = {"restart": faults.restart, "fail_over": faults.fail_over}
    busy: dict[int, Future[None]] = {}
    with ThreadPoolExecutor(len(copies.all)) as pool:
        for at, kind, number, lasts in plan:
            over.wait(max(0.0, began + at - time.monotonic()))
            if kind in to_the_database:
                print(f"{at:6.1f} s  {kind}", flush=True)
                to_the_database[kind](server)
            elif number not in busy or busy[number].done():
                left = min(lasts, max(SHORT_S, DURATION_S - at))
                print(f"{at:6.1f} s  {kind} copy {number} for {left:.0f} s", flush=True)
                if number in busy:
                    busy[number].result()  # raises what went wrong
                busy[number] = pool.submit(to_a_copy[kind], copies.all[number], partial(over.wait, left))
        for one in busy.values():
            one.result()
    return faults


def main() -> None:
    print(f"DURATION={DURATION_S:g} SEED={SEED}")
    with (
        TemporaryDirectory() as folder,
        database() as server,
        running(Path(folder), server.ports, server.url) as copies,
    ):
        copies.work()
        faults = run(copies, server, schedule(random.Random(SEED), DURATION_S))
        copies.work()
        copies.load.stop()
        try:
            found = proven(copies, faults.made)
        except AssertionError as error:
            print(*faults.made, sep="\n")
            sys.exit(f"failed: {error}")
    print(
        f"{found.happened} events, {found.acknowledged} webhooks acknowledged, {found.refused} not: none is lost\n"
        f"{found.deliveries} deliveries, {found.duplicates} of them repeated after a fault, in order"
    )


if __name__ == "__main__":
    main()
