"""The receiver against the same server that only reads the body, and against one commit a request."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load import TOKEN, Result
from benchmarks.quick import size
from benchmarks.table import Row
from receiver.app import receiver_app
from reconciler import logs
from reconciler.config.models import HookConfig, Receiver
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.service.receiver_counts import ReceiverCounts
from reconciler.service.web import web_server

CONNECTIONS = 64
SECONDS = size(6.0, 2.0)


class OneCommitEach(SqliteAppender):
    """What group commit is held against."""

    most = 1


async def read_only(scope: Any, receive: Any, send: Any) -> None:
    """The ceiling: reads the body and answers."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def serve(kind: str, folder: Path, listener: socket.socket) -> None:
    """Run one of the servers that are compared."""
    app: Any = read_only
    if kind != "read only":
        intake = (SqliteAppender if kind == "ours" else OneCommitEach)(folder / "intake")
        hooks = [HookConfig(name="default", token=TOKEN)]
        app = receiver_app(Receiver(hooks=hooks), intake=intake, observer=ReceiverCounts())
    await web_server(app).serve(sockets=[listener])


@contextmanager
def running(kind: str) -> Iterator[tuple[int, Path]]:
    """A server of its own process; gives its port and folder."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        port = listener.getsockname()[1]
        listener.set_inheritable(True)
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.receiver", kind, folder, str(listener.fileno())],
            pass_fds=[listener.fileno()],
        )
        try:
            yield port, Path(folder)
        finally:
            process.kill()
            process.wait()


def load(port: int) -> Result:
    command = [sys.executable, "-m", "benchmarks.load", str(port), str(CONNECTIONS), str(SECONDS)]
    return Result(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def measure() -> list[Row]:
    """Requests a second and p99 at 64 connections with 4 KB bodies."""
    results = {}
    wal = 0.0
    for kind in ("read only", "one commit each", "ours"):
        with running(kind) as (port, folder):
            results[kind] = load(port)
            if kind == "ours":
                wal = (folder / "intake-wal").stat().st_size / 2**20
    ours, ceiling, single = results["ours"], results["read only"], results["one commit each"]
    return [
        Row("receiver: requests/s", f"{ours.rate:,.0f}", f"{ceiling.rate:,.0f} (only reads the body)",
            ours.rate / ceiling.rate, ">= 0.25"),
        Row("receiver: requests/s", f"{ours.rate:,.0f}", f"{single.rate:,.0f} (one commit a request)",
            ours.rate / single.rate, ">= 5"),
        Row("receiver: p99", f"{ours.p99:.1f} ms", f"{ceiling.p99:.1f} ms (only reads the body)", None, "< 15 ms"),
        Row("receiver: failed requests", f"{ours.failed}", "", None, "0"),
        Row("receiver: WAL of the intake after the load", f"{wal:.0f} MiB", "", None, "bounded"),
    ]  # fmt: skip


if __name__ == "__main__":
    logs.set_up("error")  # as a service does; unconfigured, structlog prints everything
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], Path(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))))
