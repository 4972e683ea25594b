"""What recording costs in a small ledger and in one of a million events."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from sqlite_utils import Database

from benchmarks.material import everything, fill, ledger, sightings
from benchmarks.table import Row
from reconciler.events import times
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import transaction

SMALL, LARGE = 10_000, 1_000_000
BATCH = 32
MEASURED = 6_400
PAYLOAD = 500
"""Small payloads, so that a million events fit on a disk and the indexes are what is measured."""


def cost(db: Database, seed: int) -> float:
    """Microseconds for one sighting, at 32 a commit, synchronous=FULL: the median commit."""
    found = list(sightings(MEASURED, seed=seed, payload_bytes=PAYLOAD))
    took, routes = [], everything(db)
    for start in range(0, MEASURED, BATCH):
        began = time.perf_counter()
        with transaction(db):
            record(db, found[start : start + BATCH], now=times.now(), routes=routes)
        took.append((time.perf_counter() - began) / BATCH)
    return statistics.median(took) * 1e6


def measure(large: int = LARGE) -> list[Row]:
    """Microseconds for one sighting at both sizes."""
    with tempfile.TemporaryDirectory() as folder, closing(ledger(Path(folder) / "ledger.db", "one")) as db:
        fill(db, sightings(SMALL, seed=1, payload_bytes=PAYLOAD))
        small_cost = cost(db, 2)
        fill(db, sightings(large - SMALL - MEASURED, seed=3, payload_bytes=PAYLOAD))
        large_cost = cost(db, 4)
    what = f"ledger: a sighting at {large:,} events"
    return [
        Row(what, f"{large_cost:.0f} µs", f"{small_cost:.0f} µs at {SMALL:,}", large_cost / small_cost, "<= 1.25")
    ]
