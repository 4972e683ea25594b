"""The id that consumers get names its event to every command that takes one."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from reconciler.cli.app import command_line
from reconciler.cli.failing import ending
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.ids import event_ids
from tests.reconciler.cli.test_usability import in_process
from tests.support.filled import filled

NOW = "2026-10-01T00:00:00.000Z"
COMMANDS = [
    "events show {}",
    "dead-letters show {}",
    "dead-letters discard {} --yes",
    "dead-letters replay {} --yes",
    "replay {} --yes",
    "destinations skip archive {}",
]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Event 1 is a dead letter of `archive`; event 2 waits for it."""
    file = tmp_path / "config.yaml"
    whole = {
        "receiver": {"port": 0, "hooks": [{"token": "t"}]},
        "destinations": [{"name": "archive", "kind": "file", "path": "out.ndjson"}],
    }
    file.write_text(yaml.safe_dump(whole))
    filled(tmp_path / "ledger.db", 3)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db, db:
        db.execute("INSERT INTO destinations (id, name, ordering, active) VALUES (1, 'archive', 'project', 1)")
        for event, state in ((1, "dead"), (2, "pending")):
            db.execute(
                "INSERT INTO deliveries (event_id, destination_id, lane, state, opened_at, next_attempt_at)"
                " VALUES (?, 1, '', ?, ?, ?)",
                (event, state, NOW, NOW),
            )
    return str(file)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_outside_id(
    command: str, config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(Path(config).with_name("ledger.db"), readonly=True) as db:
        id_of = event_ids(db)
    named = id_of(2 if "skip" in command else 1)
    other = named.replace("evt_", "evt_0")
    code, said = in_process(monkeypatch, capsys, *command.format(other).split(), "-c", config)
    assert (code, f"{other}: made by another ledger" in said) == (1, True), said
    code, said = in_process(monkeypatch, capsys, *command.format("evt_x").split(), "-c", config)
    assert (code, "is not an event ID" in said, "evt_…" in said) == (2, True, True), said
    code, said = in_process(monkeypatch, capsys, *command.format(named).split(), "-c", config)
    assert code == 0, said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_so(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gitlab-reconciler", *command.split(" {", maxsplit=1)[0].split(), "--help"])
    assert ending(command_line(), prog_name="gitlab-reconciler") == 0
    assert "evt_…" in capsys.readouterr().out
