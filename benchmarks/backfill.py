"""Reading a long past: events a second, and what it costs GitLab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.table import Row
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World

EVENTS = 20_000
DAYS = 30
DAY_MS = 86_400_000


def serve() -> None:
    """A simulated GitLab with a month of events, until it is killed."""
    now = time.time_ns() // 1_000_000
    moment = now - DAYS * DAY_MS
    world = World(clock=lambda: moment)
    world.add_project(42, "group/project")
    for _ in range(EVENTS):
        moment += DAYS * DAY_MS // EVENTS
        world.push(42)
    moment = now
    with Simulator(world) as gitlab:
        print(json.dumps({"url": gitlab.url, "token": gitlab.api.token}), flush=True)
        sys.stdin.read()


def measure() -> list[Row]:
    """The real command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.backfill"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        gitlab = json.loads(process.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            config = {"gitlab": gitlab, "projects": [42], "receiver": {"hooks": [{"token": "t"}]}}
            file.write_text(yaml.safe_dump(config))
            began = time.perf_counter()
            since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - (DAYS + 1) * 86_400))
            command = [sys.executable, "-m", "reconciler", "backfill", "--from", since, "-c", str(file), "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
            took = time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    [report] = json.loads(done.stdout)["projects"]
    per_hundred = report["requests"] / (report["new"] / 100)
    return [
        Row("backfill: events/s", f"{report['new'] / took:,.0f}/s", "", None, ""),
        Row("backfill: requests per 100 events", f"{per_hundred:.3f}", f"{report['requests']} requests", None,
            "<= 1.02"),
    ]  # fmt: skip


if __name__ == "__main__":
    serve()
