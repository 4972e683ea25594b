"""Draining a backlog, against bare loops of httpx as it is and of the transport that HTTP destinations use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import httpx
import nats
import redis
import uvloop

from benchmarks.material import fill, ledger, sightings
from benchmarks.quick import size
from benchmarks.receiver import running
from benchmarks.table import Row
from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.events.times import Millis
from reconciler.forwarding.forwarder import Forwarder
from reconciler.forwarding.kinds.http import EVERYWHERE, Http, HttpDestination
from reconciler.forwarding.message import Message
from reconciler.forwarding.transport import Transport
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect
from reconciler.supervisor import Supervisor
from tests.support.brokers import PORTS, listens

EVENTS = size(4_000, 1_000)
BATCHED_EVENTS = size(20_000, 3_000)
CONCURRENCY = 8
BATCHED = 7.4
"""The aim for batches: 10,000/s on a machine on which httpx's bare loop makes 1,360/s."""
BATCH = 100
STREAM = "gitlab-reconciler-benchmark"


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


async def transport(url: str, bodies: list[bytes]) -> float:
    """Requests a second of nothing but the transport of HTTP destinations."""
    left, target = iter(bodies), httpx.URL(url)
    headers = [(b"Host", target.netloc), (b"Content-Type", b"application/json")]
    made = Transport(
        tls=httpx.create_ssl_context(), connections=CONCURRENCY, timeout_s=10, allowed=EVERYWHERE, proxy=None
    )

    async def work() -> None:
        for body in left:
            request = httpx.Request("POST", target, headers=headers, stream=httpx.ByteStream(body))
            response = await made.handle_async_request(request)
            await response.aread()
            await response.aclose()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    took = time.perf_counter() - began
    await made.aclose()
    return len(bodies) / took


async def sent(url: str, bodies: list[bytes], batch: int) -> float:
    """Events a second of the kind itself: messages are ready, and nothing is recorded."""
    keys = {"name": "one", "url": url, "concurrency": CONCURRENCY, "allow_private": True}
    http = Http(HttpDestination.model_validate(keys | ({"batch": {"max": batch}} if batch > 1 else {})))
    headers = {"Content-Type": "application/json", "webhook-id": "evt_1", "X-Gitlab-Event": "Push Hook"}
    ready = [Message(f"evt_{n}", "1", {}, dict(headers), body, Millis(0)) for n, body in enumerate(bodies)]
    left = iter([ready[n : n + batch] for n in range(0, len(ready), batch)])

    async def work() -> None:
        for some in left:
            answers = await http.send_batch(some) if batch > 1 else [await http.send(some[0])]
            if not all(answer.accepted for answer in answers):
                raise RuntimeError(f"not accepted: {answers[0].error}")

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    took = time.perf_counter() - began
    await http.close()
    return len(bodies) / took


class Nobody:
    """Watches nothing."""

    def attempting(self, event_id: str, destination: str, number: int) -> AbstractContextManager[dict[str, str]]:
        return nullcontext({})

    def trouble(self) -> None: ...

    def attempted(self, destination: str, outcome: str, took: int, waited: int | None) -> None: ...


async def drain(destination: Destination, path: Path, events: int) -> float:
    """Events a second of the forwarder, each marked as delivered on disk."""
    with closing(ledger(path, "one", ordering=destination.ordering)) as db, closing(connect(path)) as reader:
        fill(db, sightings(events, seed=5))
        store = Ledger(Writer(db), reader)
        forwarder = Forwarder(ledger=store, gitlab_url="https://x", watcher=Nobody(), supervisor=Supervisor())
        began = time.perf_counter()
        await forwarder.apply(await forwarder.prepare([destination]))
        left = events
        while left:
            await asyncio.sleep(0.02)
            left = reader.execute(
                "SELECT count(*) FROM deliveries WHERE destination_id = 1 AND state IN ('pending', 'retrying')"
            ).fetchone()[0]
        took = time.perf_counter() - began
        await forwarder.drain(10)
        await store.close()
        return events / took


def destination(kind: str, ordering: str, **keys: Any) -> Destination:
    """A destination's settings."""
    settings = {"name": "one", "kind": kind, "ordering": ordering, "concurrency": CONCURRENCY}
    found: Destination = find_kind(kind).config.model_validate(settings | keys)
    return found


def measure() -> list[Row]:
    """The client, both orderings, and batches, against httpx's bare loop."""
    rows = []
    bodies = [s.payload.encode() for s in sightings(EVENTS, seed=5)]
    with running("read only") as (port, folder), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        url = f"http://127.0.0.1:{port}/"
        ceiling = runner.run(bare(url, bodies))
        for what, rate in (
            ("its transport, bare loop", runner.run(transport(url, bodies))),
            ("Http.send", runner.run(sent(url, bodies, 1))),
            ("Http.send_batch, 100 events", runner.run(sent(url, bodies, 100))),
        ):
            against = f"{ceiling:,.0f}/s (httpx, bare loop)"
            rows.append(Row(f"forwarder: {what}", f"{rate:,.0f}/s", against, rate / ceiling, ""))
        for ordering, aim in ("project", 2.5), ("none", 3.0):
            one = destination("http", ordering, url=url, allow_private=True)
            rate = runner.run(drain(one, folder / f"{ordering}.db", EVENTS))
            what = f"forwarder: drain, ordering: {ordering}"
            against = f"{ceiling:,.0f}/s (httpx, bare loop)"
            rows.append(Row(what, f"{rate:,.0f}/s", against, rate / ceiling, f">= {aim:g}"))
        for kind, keys in batched(folder, url):
            for ordering in ("project", "none"):
                one = destination(kind, ordering, batch={"max": BATCH}, **keys)
                rate = runner.run(drain(one, folder / f"{kind}-{ordering}.db", BATCHED_EVENTS))
                what = f"forwarder: drain, kind: {kind}, batches of {BATCH}, ordering: {ordering}"
                against = f"{ceiling:,.0f}/s (httpx, bare loop)"
                rows.append(Row(what, f"{rate:,.0f}/s", against, rate / ceiling, f">= {BATCHED:g}"))
    return rows


def batched(folder: Path, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The kinds that are measured with batches, with their keys: HTTP, a file, and the brokers that listen."""
    yield "http", {"url": url, "allow_private": True}
    yield "file", {"path": str(folder / "events.ndjson"), "rotate_size": "10GiB"}
    if listens(PORTS["nats"]):
        asyncio.run(_make_stream())
        yield "nats", {"servers": [f"nats://127.0.0.1:{PORTS['nats']}"], "subject": f"{STREAM}.{{kind}}"}
        asyncio.run(_delete_stream())
    if listens(PORTS["redis"]):
        url = f"redis://127.0.0.1:{PORTS['redis']}/0"
        yield "redis", {"url": url, "stream": STREAM, "max_length": 1000}
        redis.Redis.from_url(url).delete(STREAM)


async def _make_stream() -> None:
    client = await nats.connect(f"nats://127.0.0.1:{PORTS['nats']}")
    # Every ledger counts from 1: the stream must not drop the events of the next run as repeats.
    await client.jetstream().add_stream(name=STREAM, subjects=[f"{STREAM}.>"], max_msgs=1000, duplicate_window=0.1)
    await client.close()


async def _delete_stream() -> None:
    client = await nats.connect(f"nats://127.0.0.1:{PORTS['nats']}")
    await client.jetstream().delete_stream(STREAM)
    await client.close()
