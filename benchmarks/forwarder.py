"""Draining a backlog, against a bare loop of the same HTTP client."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import httpx
import uvloop

from benchmarks.material import fill, ledger, sightings
from benchmarks.receiver import running
from benchmarks.table import Row
from reconciler.forwarding.forwarder import Forwarder
from reconciler.forwarding.kinds.http import HttpDestination
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect
from reconciler.supervisor import Supervisor

EVENTS = 4_000
CONCURRENCY = 8


async def bare(url: str, bodies: list[bytes]) -> float:
    """Events a second of nothing but the client."""
    left = iter(bodies)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=CONCURRENCY)) as client:

        async def work() -> None:
            for body in left:
                async with client.stream(
                    "POST", url, content=body, headers={"Content-Type": "application/json"}
                ) as response:
                    await response.aread()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return len(bodies) / (time.perf_counter() - began)


class Nobody:
    """Watches nothing."""

    def attempting(self, event_id: str, destination: str, number: int) -> AbstractContextManager[dict[str, str]]:
        return nullcontext({})

    def trouble(self) -> None: ...

    def attempted(self, destination: str, outcome: str, took: int, waited: int | None) -> None: ...


async def drain(url: str, path: Path, ordering: str) -> float:
    """Events a second of the forwarder, each marked as delivered on disk."""
    with closing(ledger(path, "one", ordering=ordering)) as db, closing(connect(path)) as reader:
        fill(db, sightings(EVENTS, seed=5))
        store = Ledger(Writer(db), reader)
        destination = HttpDestination.model_validate(
            {"name": "one", "url": url, "ordering": ordering, "concurrency": CONCURRENCY, "allow_private": True}
        )
        forwarder = Forwarder(ledger=store, gitlab_url="https://x", watcher=Nobody(), supervisor=Supervisor())
        began = time.perf_counter()
        await forwarder.apply(await forwarder.prepare([destination]))
        left = EVENTS
        while left:
            await asyncio.sleep(0.02)
            left = reader.execute(
                "SELECT count(*) FROM deliveries WHERE destination_id = 1 AND state IN ('pending', 'retrying')"
            ).fetchone()[0]
        took = time.perf_counter() - began
        await forwarder.drain(10)
        await store.close()
        return EVENTS / took


def measure() -> list[Row]:
    """Both orderings against the bare loop."""
    rows = []
    bodies = [s.payload.encode() for s in sightings(EVENTS, seed=5)]
    with running("read only") as (port, folder), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        url = f"http://127.0.0.1:{port}/"
        ceiling = runner.run(bare(url, bodies))
        for ordering in ("project", "none"):
            rate = runner.run(drain(url, folder / f"{ordering}.db", ordering))
            what = f"forwarder: drain, ordering: {ordering}"
            rows.append(Row(what, f"{rate:,.0f}/s", f"{ceiling:,.0f}/s (bare loop)", rate / ceiling, ">= 0.5"))
    return rows
