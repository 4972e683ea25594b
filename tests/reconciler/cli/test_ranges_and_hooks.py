"""Ranges that end before they begin, deliveries that are none, projects that nobody named."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli import hooks
from reconciler.cli.app import command_line
from reconciler.cli.failing import ending
from reconciler.simulator.server import Simulator
from tests.conftest import MakeService, at_gitlab
from tests.reconciler.cli.test_usability import in_process
from tests.support.filled import filled

Monkey = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
PROJECT = 42


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "config.yaml"
    file.write_text(
        "receiver: {port: 0, url: 'https://e.example', hooks: [{token: t}]}\n"
        "gitlab: {url: 'http://127.0.0.1:9', token: x}\n"
        "destinations: [{name: archive, kind: file, path: out.ndjson}]\n"
    )
    filled(tmp_path / "ledger.db", 1)
    return str(file)


@pytest.mark.parametrize(
    "command",
    ["events", "dead-letters", "dead-letters replay -y", "dead-letters discard -y", "replay -y",
     "destinations test archive", "backfill --project 1"],
)  # fmt: skip
def test_a_range_ends_after_it_begins(command: str, config: str, monkeypatch: Monkey, capsys: Capture) -> None:
    words = [*command.split(), "--from", "2026-10-03", "--to", "2026-10-01", "-c", config]
    code, said = in_process(monkeypatch, capsys, *words)
    assert (code, "--from must be before --to" in said) == (2, True), said


def test_following_has_no_end(config: str, monkeypatch: Monkey, capsys: Capture) -> None:
    code, said = in_process(monkeypatch, capsys, "events", "list", "--follow", "--to", "today", "-c", config)
    assert (code, "--to can't be used with it" in said) == (2, True)


@pytest.mark.parametrize("command", ["hooks", "hooks list", "hooks ensure", "hooks ensure --dry-run"])
def test_no_projects(command: str, config: str, monkeypatch: Monkey, capsys: Capture) -> None:
    code, said = in_process(monkeypatch, capsys, *command.split(), "-c", config)
    assert (code, "no projects: give them with --project or in the config" in said) == (2, True)


def at(gitlab: Simulator, make_service: MakeService, url: str = "http://127.0.0.1:9") -> str:
    service = make_service(**at_gitlab(gitlab))
    service.config["receiver"]["url"] = url
    service.write_config()
    return str(service.file)


def test_only_triggers_are_subscribed_to(
    make_service: MakeService, gitlab: Simulator, monkeypatch: Monkey, capsys: Capture
) -> None:
    words = ["hooks", "ensure", "--dry-run", "-c", at(gitlab, make_service, "https://events.example.com")]
    monkeypatch.setattr("sys.argv", ["gitlab-reconciler", *words])
    assert ending(command_line(), prog_name="gitlab-reconciler") == 0
    [told] = [line for line in capsys.readouterr().out.splitlines() if "subscribed to" in line]
    assert all(name.endswith("_events") for name in told.replace("subscribed to", "").replace(",", "").split())


def test_resending(make_service: MakeService, gitlab: Simulator, monkeypatch: Monkey, capsys: Capture) -> None:
    config = at(gitlab, make_service)
    hook = gitlab.add_hook(PROJECT, "http://127.0.0.1:9/webhooks/gitlab", token="t")
    gitlab.world.push(PROJECT)
    gitlab.world.push(PROJECT)
    gitlab.courier.settle()
    code, said = in_process(
        monkeypatch, capsys, "hooks", "resend", "--project", "42", "--delivery", "999999", "-c", config
    )
    assert (code, "delivery 999999: not in GitLab's log of our webhooks in 42" in said) == (1, True), said
    before = len(hook.log)
    monkeypatch.setattr(hooks, "RESEND_PAUSE_S", 0.01)
    code, said = in_process(monkeypatch, capsys, "hooks", "resend", "--project", "42", "-c", config)
    assert (code, len(hook.log) - before) == (0, 2), said
    assert "2 to resend: GitLab allows 5 per minute, so this takes 0 s." in said
    assert "1 of 2 sent; waiting" in said


@pytest.mark.parametrize(("seconds", "said"), [(12.5, "12 s"), (125.0, "2 minutes"), (12_500.0, "208 minutes")])
def test_how_long_it_takes(seconds: float, said: str) -> None:
    assert hooks._duration(seconds) == said
