"""What one more event costs in a small ledger and in a large one, and how much of the file an event takes."""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from benchmarks import quick
from benchmarks.material import everything, fill, ledger, sightings
from benchmarks.table import Row
from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.ledger.queue import deliveries
from reconciler.ledger.queue.deliveries import Attempt, Settled
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import CHECKPOINT_PAGES, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views.search import index_step

SMALL, LARGE, LARGEST = 10_000, quick.size(1_000_000, 50_000), 5_000_000
BATCHES = (64, 500)
MEASURED, THOUSAND = quick.size(9_000, 3_000), 1_000
FILLER = 200
"""Bytes of a body that only fills the ledger: the indexes are as large as with larger bodies, and the file fits on a
disk. What is measured has bodies of 4 KB."""
SIZED = quick.size(10_000, 2_000)
_FRAME_HEADER, _LOG_HEADER = 24, 32


class Cost(NamedTuple):
    """Of one event: microseconds, and pages written to the write-ahead log."""

    micros: float
    pages: float


def cost(db: Database, seed: int, batch: int) -> Cost:
    """What an event costs with so many a commit, each on disk (synchronous=FULL): the median thousand of them, with
    the checkpoints among them.
    """
    found = list(sightings(MEASURED, seed=seed))
    took, routes = [], everything(db)
    step = THOUSAND // batch * batch
    for first in range(0, MEASURED - step + 1, step):
        began = time.perf_counter()
        for start in range(first, first + step, batch):
            with transaction(db):
                record(db, found[start : start + batch], now=times.now(), routes=routes)
        took.append((time.perf_counter() - began) / step)
    return Cost(statistics.median(took) * 1e6, _pages(db, seed + 1, batch))


def _pages(db: Database, seed: int, batch: int) -> float:
    """Pages that an event adds to the log."""
    log, routes = db.files.path.with_name(db.files.path.name + "-wal"), everything(db)
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    found = list(sightings(4 * batch, seed=seed))
    for start in range(0, len(found), batch):
        with transaction(db):
            record(db, found[start : start + batch], now=times.now(), routes=routes)
    page = db.execute("PRAGMA page_size").fetchone()[0]
    pages = (log.stat().st_size - _LOG_HEADER) / (page + _FRAME_HEADER)
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return pages / len(found)


def size(count: int = SIZED) -> Row:
    """Bytes of the file for an event that was delivered and can be searched for, against those of its body."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with closing(ledger(path, "one")) as db:
            fill(db, _of_many_sizes(count))
            _deliver_all(db)
            more = True
            while more:
                with transaction(db):
                    more = index_step(db).more
            events, body = db.execute("SELECT count(*), sum(length(payload)) FROM sightings").fetchone()
        used = path.stat().st_size
    each, its_body = f"{used / events:,.0f}", f"{body / events:,.0f} (its body)"
    return Row("ledger: bytes of the file for an event", each, its_body, used / body, "<= 1.5")


def _of_many_sizes(count: int) -> Iterator[Sighting]:
    """With bodies of 2 to 6 KB, 4 KB on average, as they come: how rows fill pages depends on their sizes."""
    sizes = list(range(2048, 6145, 256))
    random.Random(5).shuffle(sizes)
    each = [sightings(count // len(sizes), seed=100 + size, payload_bytes=size) for size in sizes]
    return itertools.chain.from_iterable(zip(*each, strict=True))


def _deliver_all(db: Database) -> None:
    with transaction(db):
        for event_id, destination_id in db.execute("SELECT event_id, destination_id FROM deliveries").fetchall():
            at = times.now()
            deliveries.settle(db, [Settled(Attempt(event_id, destination_id, event_id, 1, at, at, 200), at)])


def measure(large: int = LARGE) -> list[Row]:
    """What an event costs at both sizes, and the file's bytes for it."""
    with tempfile.TemporaryDirectory() as folder, closing(ledger(Path(folder) / "ledger.db", "one")) as db:
        fill(db, sightings(SMALL, seed=1, payload_bytes=FILLER))
        small = [cost(db, 10 + batch, batch) for batch in BATCHES]
        fill(db, sightings(large - _events(db), seed=3, payload_bytes=FILLER))
        big = [cost(db, 20 + batch, batch) for batch in BATCHES]
    rows = []
    for batch, before, after in zip(BATCHES, small, big, strict=True):
        what, there = f"ledger: one more event at {large:,}, {batch} a commit", f"at {SMALL:,}"
        micros, pages = after.micros / before.micros, after.pages / before.pages
        rows.append(Row(what, f"{after.micros:.0f} µs", f"{before.micros:.0f} µs {there}", micros, "<= 1.25"))
        rows.append(Row(f"{what}: pages", f"{after.pages:.1f}", f"{before.pages:.1f} {there}", pages, ""))
    return [*rows, size()]


def measure_largest() -> list[Row]:
    """As `measure`, at five million events."""
    return measure(LARGEST)


def _events(db: Database) -> int:
    count: int = db.execute("SELECT count(*) FROM events").fetchone()[0]
    return count
