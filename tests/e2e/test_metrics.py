"""/metrics of a running service: the figures are the ledger's, and what docs/ asks for is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from reconciler.simulator.consumer import ACCEPTED, Consumer
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from tests.conftest import EVENTS_ONLY, PROJECT, MakeService, at_gitlab, to_consumer
from tests.e2e.test_delivery import post
from tests.support.service import until

DOCS = Path(__file__).parents[2] / "docs"


def scrape(port: int) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def of(found: Any, name: str, **labels: str) -> float:
    return float(found["gitlab_reconciler_" + name][tuple(sorted(labels.items()))])


def test_figures_and_names(make_service: MakeService, gitlab: Simulator, consumer: Consumer) -> None:
    consumer.answer = lambda _h, body: (422, {}, b"") if b'"bad"' in body else ACCEPTED
    port = free_port()
    service = make_service(
        destinations=[to_consumer(consumer), {"name": "away", "url": "http://127.0.0.1:9", "allow_private": True,
                                              "breaker": {"failures": 1}}],
        metrics={"port": port},
        **at_gitlab(gitlab, **EVENTS_ONLY),
    ).start()  # fmt: skip
    service.wait_for_log("caught up with GitLab")
    for n in range(5):
        post(service, 1, n, **({"bad": 1} if n == 0 else {}))
    service.post(b'{"object_kind": "x", "project_id": 9}', Idempotency_Key="same")
    service.post(b'{"object_kind": "x", "project_id": 9}', Idempotency_Key="same")
    gitlab.world.push(PROJECT)
    assert consumer.wait_for(lambda c: len(c.requests) == 7)
    until(lambda: of(scrape(port), "attempts_total", destination="consumer", outcome="delivered") == 6)
    found = scrape(port)
    assert of(found, "sightings_total", source="webhook", kind="other") == 6
    assert of(found, "events_total", kind="other", known_by="webhook") == 6
    assert of(found, "events_total", kind="push", known_by="recovery") == 1
    assert of(found, "duplicates_total", source="webhook") == 1
    assert of(found, "attempts_total", destination="consumer", outcome="http_4xx") == 1
    assert of(found, "dead_letters", destination="consumer") == 1
    assert of(found, "queue_depth", destination="consumer") == 0
    assert of(found, "queue_depth", destination="away") == 7
    assert of(found, "queue_oldest_seconds", destination="away") > 0
    assert (
        of(found, "destination_down", destination="away"),
        of(found, "destination_down", destination="consumer"),
    ) == (1, 0)
    assert of(found, "webhook_ack_seconds_count") == 7
    assert of(found, "delivery_latency_seconds_count", destination="consumer") == 6
    assert 0 < of(found, "commit_sightings_count") <= of(found, "commit_sightings_sum")
    assert of(found, "ledger_bytes") > 50_000
    assert of(found, "api_requests_total") > 0
    assert of(found, "hooks_disabled") == 0
    feed = f"/api/v4/projects/{PROJECT}/events"
    polls = gitlab.api.requests[feed]
    until(lambda: gitlab.api.requests[feed] >= polls + 3)
    again = scrape(port)
    assert of(again, "sightings_total", source="project_events", kind="push") == 1  # what is read again is no report

    exposed = set(found) | {"gitlab_reconciler_gaps", "gitlab_reconciler_gap_seconds"}  # there is no gap now
    board = json.loads((DOCS / "grafana.json").read_text())
    rules = yaml.safe_load((DOCS / "alerts.yaml").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    names = {name for text in asked for name in re.findall(r"gitlab_reconciler_\w+", text)}
    assert names - exposed - {"gitlab_reconciler_rate_limit_remaining"} == set()
    shown = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in names}
    ours = {name for name in exposed if name.startswith("gitlab")}
    ours = {re.sub("_(bucket|sum|count|created|total|info)$", "", name) for name in ours}
    unseen = {name for name in ours if not any(one.startswith(name) for one in shown)}
    # Everything else is on the dashboard; the second is there with PostgreSQL only.
    assert unseen <= {"gitlab_reconciler_destination_paused", "gitlab_reconciler_destination_delivered_by"}


def test_promtool_likes_them() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT TESTED: promtool is not here (Debian: apt-get install prometheus)")
    done = subprocess.run(
        [promtool, "check", "rules", str(DOCS / "alerts.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
