"""What `setup` writes passes `check`, and the service that starts with it delivers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from tests.conftest import PATH, PROJECT
from tests.support.service import Service, run
from tests.support.starter import START


@pytest.mark.sqlite("setup writes a config with a ledger in SQLite")
def test_from_setup_to_the_first_event(gitlab: Simulator, consumer: Consumer, tmp_path: Path) -> None:
    port = free_port()
    gitlab.api.expires_at = "2027-01-31"
    environ = {"GITLAB_TOKEN": gitlab.api.token, "PORT": str(port), "ADMIN_PORT": str(free_port())}
    file = str(tmp_path / "config.yaml")
    options = ["--gitlab-url", gitlab.url, "--project", PATH, "--destination", consumer.url, "--allow-private"]
    hooks = ["--receiver-url", f"http://127.0.0.1:{port}", "--create-webhooks"]
    done = run("setup", file, *options, *hooks, **environ)
    assert done.returncode == 0, done.stderr
    checked = run("check", "-c", file, **environ)
    assert (checked.returncode, "✗" in checked.stdout) == (0, False), checked.stdout + checked.stderr
    assert "the token may read the API: scopes api; expires 2027-01-31" in checked.stdout

    service = Service(tmp_path, {"ledger": {"path": "ledger.db"}})
    service.watch(START.start("serve", "-c", file, stderr=subprocess.PIPE, env={**os.environ, **environ}))
    try:
        service.wait_for_log("ready")
        gitlab.world.push(PROJECT, "main")
        assert consumer.wait_for(lambda c: len(c.accepted) >= 2)
        assert service.stop() == 0
    finally:
        service.kill()
    test, event = consumer.accepted
    assert json.loads(test.body)["object_kind"] == "reconciler_test"
    assert (json.loads(event.body)["object_kind"], event.headers["x-reconciler-source"]) == (
        "push",
        "webhook:default",
    )
