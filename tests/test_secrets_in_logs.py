"""What the log shows of secrets, and what of it a terminal could act on: nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import PAYLOADS, PROJECT, at_gitlab, to_consumer
from tests.reconciler.events.test_texts import acts
from tests.support.faults import PLANTED
from tests.support.service import until
from tests.support.terminal import NASTY, Running

PUSH = (PAYLOADS / "go-playground+webhooks" / "push-event.json").read_bytes()
SECRETS = {
    "hook": "hook-token-3f2a9c",
    "admin": "admin-token-8d1b7e40",
    "header": "header-secret-55aa01",
    "signing": "whsec_c2lnbmluZy1rZXktb2YtYS10ZXN0LTEyMzQ1Njc4",
    "passing by": "somebody-elses-bearer-77",
}
NEVER_SHOWN = [*SECRETS.values(), "signing-key-of-a-test", "url-password", "url-token"]

FAULTS = [
    "receiver.endpoint:check_json_object",
    "reconciler.recorder.reading:webhook_sighting",
    "receiver.guard:HookGuard.rejection_by_headers",
    "reconciler.ledger.recording.record:known",
    "reconciler.forwarding.formats:Formatter.message",
    "reconciler.forwarding.kinds.http:Http.headers",
    "reconciler.forwarding.kinds.http:Http.send",
    "reconciler.ledger.queue.deliveries:ready",
    "reconciler.dashboard.views:front",
    "reconciler.dashboard.guard:form_of",
    "reconciler.dashboard.guard:AdminGuard._scope_of",
    "reconciler.sources.client:Client.project",
    "reconciler.sources.project_events:record_sighting",
]


def config(folder: Path, **sections: Any) -> Path:
    file = folder / "config.yaml"
    whole = {
        "receiver": {
            "port": 0,
            "hooks": [
                {"name": "default", "token": SECRETS["hook"]},
                {"name": "signed", "signing_token": SECRETS["signing"]},
            ],
        },
        "ledger": {"path": "ledger.db"},
        **sections,
    }
    file.write_text(yaml.safe_dump(whole))
    return file


@pytest.fixture(params=[False, True], ids=["json", "terminal"])
def terminal(request: pytest.FixtureRequest) -> Iterator[bool]:
    yield request.param


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_any_part_shows_no_secret(
    tmp_path: Path, consumer: Consumer, gitlab: Simulator, fault: str
) -> None:
    to = to_consumer(consumer, headers={"Authorization": SECRETS["header"]}, secret=SECRETS["signing"])
    gitlab.world.push(PROJECT)
    admin = {"port": 0, "token": SECRETS["admin"]}
    file = config(tmp_path, destinations=[to], admin=admin, **at_gitlab(gitlab))
    with Running("-m", "tests.support.faults", fault, "serve", "-c", str(file), "--log-level", "debug") as service:
        port = service.line("listening")["port"]
        dashboard = service.line("dashboard ready")["url"]

        def poke() -> bool:
            """Everything that an unauthenticated client, GitLab, and an admin do, secrets in hand."""
            headers = {"Content-Type": "application/json", "X-Gitlab-Token": SECRETS["hook"], "X-Gitlab-Event": "x"}
            headers["Authorization"] = f"Bearer {SECRETS['passing by']}"
            with httpx.Client(timeout=20, limits=httpx.Limits(max_keepalive_connections=0)) as client:
                client.post(f"http://127.0.0.1:{port}/webhooks/gitlab", content=PUSH, headers=headers)
                bearer = {"Authorization": f"Bearer {SECRETS['admin']}"}
                client.get(dashboard, headers=bearer)
                form = {"token": SECRETS["admin"], "secret": "x"}
                client.post(f"{dashboard}/login", data=form, headers=bearer)
            return PLANTED in service.logged

        until(poke)
    assert [secret for secret in NEVER_SHOWN if secret in service.logged] == []
    assert max(map(len, service.logged.splitlines())) < 100_000


SHOWING = """
import logging, structlog
from reconciler import logs
logs.set_up("info")
log = structlog.get_logger()
NASTY = {nasty!r}
def deep(token):
    password = "local-password"
    raise ValueError(NASTY + " amqp://user:url-password@broker/")
try:
    deep("local-token")
except ValueError:
    log.exception("a fault", path=NASTY, many=[NASTY], thing={{"x": NASTY}}, raw=NASTY.encode("utf-8", "replace"))
    logging.getLogger("a.library").exception("its fault: %s", NASTY)
log.bind(bound=NASTY).info(NASTY, error=ValueError(NASTY), number=1)
log.info("large", body="x" * 50_000_000)
"""


def test_text_from_outside_does_not_act_on_a_terminal(terminal: bool) -> None:
    with Running("-c", SHOWING.format(nasty=NASTY), terminal=terminal) as shown:
        shown.wait()
        until(lambda: "large" in shown.logged)
    logged = shown.logged.replace("\r\n", "\n")
    assert acts(logged.replace("\n", "").replace("\t", "")) == []
    assert [word for word in ("local-password", "local-token", "url-password") if word in logged] == []
    assert len(logged) < 200_000
    assert "its fault" in logged
    assert logged.count("Traceback" if terminal else '"exc_type": "ValueError"') == 2
    if not terminal:
        assert json.loads(logged.splitlines()[0])["event"] == "a fault"
