"""The real service under full load: a burst that is acknowledged at once and recorded later, and a lasting load."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import uvloop
import yaml

from benchmarks.load import TOKEN, Load
from benchmarks.quick import size
from benchmarks.receiver import running
from benchmarks.table import Row

BURST = size(200_000, 10_000)
SECONDS = size(60.0, 5.0)
RATE = 1_000
CONNECTIONS = 64


@contextmanager
def service(folder: Path, destinations: list[dict[str, object]]) -> Iterator[tuple[int, list[psutil.Process]]]:
    """`gitlab-reconciler serve`: its port, and its processes."""
    file = folder / "config.yaml"
    config = {"receiver": {"port": 0, "hooks": [{"token": TOKEN}]}, "destinations": destinations}
    file.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "serve", "-c", str(file)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        port, ready = 0, False
        while not (port and ready):
            line = json.loads(process.stderr.readline())
            port = line.get("port", port)
            ready = ready or line["event"] == "ready"
        parent = psutil.Process(process.pid)
        yield port, [parent, *parent.children(recursive=True)]
    finally:
        process.kill()
        process.wait()


def counted(ledger: Path, sql: str) -> int:
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        found: int = db.execute(sql).fetchone()[0]
        return found


async def acknowledge(ports: Sequence[int], count: int, rate: float | None = None) -> tuple[float, float]:
    """Send so many webhooks to these ports in turn, at this rate or as fast as they are acknowledged. Returns the
    seconds that took, and the 99th percentile of their latencies in milliseconds.
    """
    load = Load(ports[0])
    left = iter(range(count))
    began = time.perf_counter()

    async def work(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            if rate is not None:
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            at = time.perf_counter()
            writer.write(load.request())
            answer = await reader.readuntil(b"\r\n\r\n")
            load.latencies.append(time.perf_counter() - at)
            if b" 200 " not in answer[:20]:
                raise RuntimeError(answer.decode())
        writer.close()

    await asyncio.gather(*(work(ports[number % len(ports)]) for number in range(CONNECTIONS)))
    latencies = sorted(load.latencies)
    return time.perf_counter() - began, latencies[int(len(latencies) * 0.99)] * 1000


def burst() -> list[Row]:
    """Acknowledged at full speed, then the time until all is recorded."""
    with (
        tempfile.TemporaryDirectory() as folder,
        service(Path(folder), []) as (port, processes),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        ledger = Path(folder) / "ledger.db"
        began = time.perf_counter()
        took, p99 = runner.run(acknowledge([port], BURST))
        while counted(ledger, "SELECT count(*) FROM sightings") < BURST:
            time.sleep(0.1)
        recorded = time.perf_counter() - began
        memory = sum(one.memory_full_info().pss for one in processes) / 2**20
    return [
        Row(f"burst of {BURST:,}: acknowledged", f"{BURST / took:,.0f}/s", f"p99 {p99:.1f} ms", None, ""),
        Row(f"burst of {BURST:,}: recorded after", f"{recorded:.1f} s", f"{BURST / recorded:,.0f}/s", None, ""),
        Row(f"burst of {BURST:,}: memory after it", f"{memory:.0f} MiB", "", None, "bounded"),
    ]


def sustained() -> list[Row]:
    """Acknowledged, recorded, and delivered to a file and over HTTP, for as long as this lasts."""
    count = int(RATE * SECONDS)
    with (
        tempfile.TemporaryDirectory() as folder,
        running("read only") as (target, _),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        destinations: list[dict[str, object]] = [
            {"name": "file", "kind": "file", "path": "events.jsonl", "ordering": "none"},
            {"name": "http", "url": f"http://127.0.0.1:{target}/", "allow_private": True, "ordering": "none"},
        ]
        with service(Path(folder), destinations) as (port, _):
            ledger = Path(folder) / "ledger.db"
            took, p99 = runner.run(acknowledge([port], count, RATE))
            delivered = "SELECT count(*) FROM deliveries WHERE state = 'delivered'"
            behind = 2 * count - counted(ledger, delivered)
            over = time.perf_counter()
            while counted(ledger, delivered) < 2 * count:
                time.sleep(0.1)
            lag = time.perf_counter() - over
    return [
        Row(f"{SECONDS:.0f} s end to end: acknowledged", f"{count / took:,.0f}/s", f"p99 {p99:.1f} ms", None, ""),
        Row(f"{SECONDS:.0f} s end to end: delivered twice", f"{lag:.1f} s later", f"{behind:,} behind", None, ""),
    ]


def measure() -> list[Row]:
    """Both."""
    return burst() + sustained()
