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

from benchmarks.quick import size
from benchmarks.table import Row
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import World

EVENTS = size(20_000, 2_000)
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
    """The real command: bodies from the records alone, and with what GitLab must be asked for besides."""
    rows = []
    for what, days, options in (("records alone", DAYS, ["--json", "--no-details"]), ("with details", 3, ["--json"])):
        report, took = _run(days, options)
        per_hundred = report["requests"] / (report["new"] / 100)
        aim = "<= 1.02 and the lists" if days == DAYS else ""
        rows += [
            Row(f"backfill, {what}: events/s", f"{report['new'] / took:,.0f}/s", "", None, ""),
            Row(f"backfill, {what}: requests per 100 events", f"{per_hundred:.3f}",
                f"{report['requests']} requests", None, aim),
        ]  # fmt: skip
    return rows


def _run(days: int, options: list[str]) -> tuple[dict[str, int], float]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.backfill"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        gitlab = json.loads(process.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            config = {"gitlab": gitlab, "projects": [42], "receiver": {"hooks": [{"token": "t"}]},
                      "reconcile": {"sources": ["project_events"]}}  # fmt: skip
            file.write_text(yaml.safe_dump(config))
            began = time.perf_counter()
            since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - (days + 1) * 86_400))
            command = [
                sys.executable,
                "-m",
                "reconciler",
                "backfill",
                "--from",
                since,
                "-c",
                str(file),
                "--json",
                *options,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
            took = time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    [report] = json.loads(done.stdout)["projects"]
    return report, took


if __name__ == "__main__":
    serve()
