"""Every page of docs that has a `run.sh` is run, as its reader would, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import confluent_kafka
import pytest

from reconciler.config.destination_kinds import BUILT_IN
from reconciler.simulator.ports import free_port
from tests.support.brokers import broker

PAGES = sorted(Path(__file__).parents[1].glob("docs/**/*.md"))
BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```', re.S | re.M)
EXAMPLES = [page for page in PAGES if 'title="run.sh"' in page.read_text()]
VARIABLES = {"mqtt": "MQTT_PORT", "nats": "NATS_PORT", "rabbitmq": "RABBITMQ_PORT", "redis": "REDIS_PORT"}


@pytest.fixture
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What a page's example needs around it."""
    name = request.getfixturevalue("page").stem
    made = {name: str(free_port()) for name in ("PORT", "ADMIN_PORT", "CONSUMER_PORT")}
    with ExitStack() as stack:
        if name in VARIABLES:
            port = stack.enter_context(broker(name, tmp_path / "broker"))
            made |= {VARIABLES[name]: str(port), "NATS_URL": f"nats://127.0.0.1:{port}"}
        if name == "kafka":
            owner = confluent_kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "x:1"})
            [one] = owner.list_topics(timeout=10).brokers.values()
            made["KAFKA"] = f"{one.host}:{one.port}"
            owner.list_topics("gitlab-example", timeout=10)  # makes it
            stack.callback(owner.flush, 1)
        yield made


def test_every_kind_has_an_example() -> None:
    assert {page.stem for page in EXAMPLES} == {*BUILT_IN, "start", "api", "export", "chat"}


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_the_example_runs_and_prints_what_the_page_says(page: Path, environ: dict[str, str], tmp_path: Path) -> None:
    blocks = dict(BLOCK.findall(page.read_text(encoding="utf-8")))
    folder = tmp_path / "example"
    folder.mkdir()
    for name, text in blocks.items():
        (folder / name).write_text(text, encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "run.sh"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environ, "PATH": path},
    )
    log = (folder / "serve.log").read_text()
    assert done.returncode == 0, (done.stdout, done.stderr, log)
    wanted = ".*".join(re.escape(part) for part in blocks["prints"].split("…"))
    assert re.fullmatch(wanted, done.stdout, re.S), (done.stdout, log)
