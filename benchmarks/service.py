"""The real service: webhook-to-destination latency, and memory with and without a backlog."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.burst import service
from benchmarks.load import KEY_MARK, TOKEN
from benchmarks.material import fill, ledger, sightings
from benchmarks.quick import size
from benchmarks.table import Row

RATE = 200
SECONDS = size(10, 3)
PENDING = size(100_000, 10_000)


class _Destination(asyncio.Protocol):
    """Answers every request with 200 and notes when its event came in."""

    def __init__(self, arrived: dict[str, float]) -> None:
        self.arrived = arrived
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            self.arrived[rest[:length].split(b'"ident":"')[1][:36].decode()] = time.perf_counter()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def latencies(folder: Path) -> list[float]:
    """Milliseconds from sending a webhook to its arrival at the destination, at 200 events/s, 4 KB each."""
    arrived: dict[str, float] = {}
    sent: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Destination(arrived), "127.0.0.1", 0)
    target = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    with service(folder, to(target)) as (port, _):
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]

        async def post(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ident = f"{number:0{len(KEY_MARK)}d}"
            body = json.dumps({"object_kind": "x", "project_id": number % 50 + 1, "pad": "x" * 3900}).encode()
            body = b'{"ident":"' + ident.encode() + b'",' + body[1:]
            head = (
                f"POST /webhooks/gitlab HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"X-Gitlab-Token: {TOKEN}\r\nIdempotency-Key: {ident}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            sent[ident] = time.perf_counter()
            writer.write(head.encode() + body)
            await reader.readuntil(b"\r\n\r\n")

        async def work(index: int) -> None:
            began = time.perf_counter()
            for turn in range(RATE * SECONDS // len(streams)):
                number = turn * len(streams) + index
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                await post(number, *streams[index])

        await asyncio.gather(*(work(index) for index in range(len(streams))))
        await asyncio.sleep(1)  # the last ones arrive; one that does not makes a KeyError below
    server.close()
    return sorted((arrived[ident] - at) * 1000 for ident, at in sent.items())


def to(url: str) -> list[dict[str, object]]:
    """One destination."""
    return [{"name": "one", "url": url, "allow_private": True}]


def resident(processes: list[psutil.Process]) -> float:
    """Memory of all processes in MiB, what they share counted once, when it has come to rest."""
    time.sleep(4)
    return float(sum(one.memory_full_info().pss for one in processes) / 2**20)


def measure() -> list[Row]:
    """Latency, then memory."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took = runner.run(latencies(Path(folder)))
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    nowhere = "http://127.0.0.1:9/"
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), to(nowhere)) as (_, processes):
        idle = resident(processes)
    with tempfile.TemporaryDirectory() as folder:
        with closing(ledger(Path(folder) / "ledger.db", "one")) as db:
            fill(db, sightings(PENDING, seed=6, payload_bytes=1000))
        with service(Path(folder), to(nowhere)) as (_, processes):
            loaded = resident(processes)
    return [
        Row(f"webhook to destination at {RATE}/s: p50", f"{p50:.1f} ms", "", None, ""),
        Row(f"webhook to destination at {RATE}/s: p99", f"{p99:.1f} ms", "", None, "< 50 ms"),
        Row("memory: idle", f"{idle:.0f} MiB", "", None, ""),
        Row(f"memory: {PENDING:,} pending", f"{loaded:.0f} MiB", f"+{loaded - idle:.0f} MiB", None, "< 20 MB more"),
    ]
