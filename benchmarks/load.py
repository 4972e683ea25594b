"""A load generator: so many connections, each sending its next request when the last was answered.

Written on bare asyncio protocols, so that it costs less than the server it measures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

TOKEN = "bench"
SHA_MARK = "f" * 40
KEY_MARK = "00000000-0000-0000-0000-000000000000"


@dataclass
class Result:
    """Requests a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int


def body(size: int = 4096) -> bytes:
    """A push webhook of about `size` bytes, with a mark where each request puts its own SHA."""
    commit = {
        "id": "a" * 40,
        "message": "Add simple search to projects in public area\n" * 2,
        "author": {"name": "A"},
    }
    push = {
        "object_kind": "push",
        "event_name": "push",
        "before": "b" * 40,
        "after": SHA_MARK,
        "ref": "refs/heads/main",
        "user_username": "ada",
        "project_id": 42,
        "project": {"id": 42, "path_with_namespace": "group/project"},
        "commits": [commit],
    }
    while len(json.dumps(push)) < size - 200:
        push["commits"].append(commit)  # type: ignore[attr-defined]
    push["padding"] = "x" * max(0, size - len(json.dumps(push)) - len(', "padding": ""'))
    return json.dumps(push).encode()


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        assert self.transport is not None
        if self.load.over:
            self.transport.close()
            return
        self.sent_at = time.perf_counter()
        self.transport.write(self.load.request())

    def data_received(self, data: bytes) -> None:
        self.load.latencies.append(time.perf_counter() - self.sent_at)
        if not data.startswith(b"HTTP/1.1 200"):
            self.load.failed += 1
        self.send()


class Load:
    """Requests against one port. With `rate` they are spaced; without, as fast as they are answered."""

    def __init__(self, port: int, size: int = 4096) -> None:
        self.port = port
        self.latencies: list[float] = []
        self.failed = 0
        self.over = False
        content = body(size)
        head = (
            f"POST /webhooks/gitlab HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"X-Gitlab-Token: {TOKEN}\r\nX-Gitlab-Event: Push Hook\r\nIdempotency-Key: {KEY_MARK}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        ).encode()
        before, after = head.split(KEY_MARK.encode())
        first, second = content.split(SHA_MARK.encode())
        self._parts = (before, after + first, second)
        self._run = uuid.uuid4().hex[:8]
        self._count = 0

    def request(self) -> bytes:
        self._count += 1
        # As random as real UUIDs and SHAs are: an index that they go into sees no order.
        mixed = f"{(self._count * 0x9E3779B97F4A7C15) & (2**64 - 1):016x}{self._run}"
        key = f"{mixed[:8]}-{mixed[8:12]}-{mixed[12:16]}-{mixed[16:20]}-{self._count:012d}"
        sha = (mixed + f"{self._count:016d}")[:40]
        return key.encode().join(self._parts[:2]) + sha.encode() + self._parts[2]

    async def run(self, *, connections: int, seconds: float) -> Result:
        loop = asyncio.get_running_loop()
        made = [
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
            for _ in range(connections)
        ]
        await asyncio.sleep(seconds / 5)  # warm
        self.latencies.clear()
        start = time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - start
        self.over = True
        measured = sorted(self.latencies)
        for transport, _ in made:
            transport.close()
        return Result(
            len(measured) / took,
            measured[len(measured) // 2] * 1000,
            measured[int(len(measured) * 0.99)] * 1000,
            self.failed,
        )


if __name__ == "__main__":
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(Load(port).run(connections=connections, seconds=seconds)))))
