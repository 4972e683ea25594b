"""What the log shows of secrets, and what of it a terminal could act on: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
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

ROOT = Path(__file__).parents[1]
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
    "receiver.endpoint:json_object",
    "receiver.endpoint:webhook_sighting",
    "receiver.guard:Guard.refusal",
    "reconciler.ledger.record:_known",
    "reconciler.forwarding.formats:Formatter.message",
    "reconciler.forwarding.kinds.http:Http.headers",
    "reconciler.forwarding.kinds.http:Http.send",
    "reconciler.ledger.queue:outgoing",
    "reconciler.dashboard.views:front",
    "reconciler.dashboard.guard:form_of",
    "reconciler.dashboard.guard:Guard.is_token",
    "reconciler.sources.client:Client.project",
    "reconciler.sources.project_events:record_sighting",
]


class Running:
    """A service whose stderr is a pipe, or a terminal, all of which is kept."""

    def __init__(self, *command: str, terminal: bool = False) -> None:
        read_end, write_end = pty.openpty() if terminal else os.pipe()
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "200"}
        self._process = subprocess.Popen([sys.executable, *command], stderr=write_end, env=environ, cwd=ROOT)
        os.close(write_end)
        self._read_end = read_end
        self.logged = ""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # a terminal's end
            while data := os.read(self._read_end, 65536):
                self.logged += data.decode("utf-8", "surrogateescape")

    def wait(self) -> int:
        """For its end; its exit code."""
        return self._process.wait(60)

    def line(self, event: str) -> dict[str, Any]:
        """Wait for a line of JSON that tells this."""

        def found() -> list[dict[str, Any]]:
            lines = self.logged[: self.logged.rfind("\n") + 1].splitlines()
            return [one for one in map(json.loads, lines) if one["event"] == event]

        until(lambda: bool(found()))
        return found()[0]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait(20)
        self._reading.join(20)
        os.close(self._read_end)


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
        dashboard = service.line("the dashboard is ready")["url"]

        def poke() -> bool:
            """Everything that a stranger, GitLab, and an admin do, secrets in hand."""
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
NASTY = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x202E, 0x2028, 0x2066, 0xFEFF, 0xD800]))
NASTY = "\x1b]0;title\x07 \x1b[2J " + NASTY


def test_what_strangers_wrote_does_not_act_on_a_terminal(terminal: bool) -> None:
    with Running("-c", SHOWING.format(nasty=NASTY), terminal=terminal) as shown:
        shown.wait()
        until(lambda: "large" in shown.logged)
    logged = shown.logged.replace("\r\n", "\n")
    assert acts(logged.replace("\n", "").replace("\t", "")) == []
    assert [word for word in ("local-password", "local-token", "url-password") if word in logged] == []
    assert len(logged) < 200_000
    assert "its fault" in logged
    assert logged.count("Traceback") == 2
    if not terminal:
        assert json.loads(logged.splitlines()[0])["event"] == "a fault"
