"""Every command on a terminal, with a ledger and a GitLab full of what a terminal could act on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.reconciler.events.test_texts import acts
from tests.support.filled import filled
from tests.support.scripted import Scripted
from tests.support.service import until
from tests.support.terminal import NASTY, Running, on_terminal

NOW = "2026-10-01T00:00:00.000Z"
STORED = NASTY.replace("\ud800", "")
"""What SQLite's texts can hold of it."""
OURS = set(
    (
        "name value ordering state breaker payload_sha headers payload raw recovery triggers purpose how what "
        "precision"
    ).split()
)
"""Columns that hold words of ours, or JSON; every other column of text may hold anything, and does here."""
TIMES = ("_at", "_from", "_through", "since", "until")

BODY = {"object_kind": NASTY, "n": 10**40, NASTY: {NASTY: [NASTY, "漢"]}}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("terminal")
    with Scripted(lambda _: (400, {"message": NASTY})) as gitlab:
        file = folder / "config.yaml"
        whole = {
            "gitlab": {"url": gitlab.url, "token": "a-token"},
            "projects": [1],
            "receiver": {"port": 0, "hooks": [{"token": "hook-token"}]},
            "ledger": {"path": "ledger.db"},
            "destinations": [{"name": "one", "kind": "file", "path": "out.ndjson"}],
        }
        file.write_text(yaml.safe_dump(whole))
        spoil(folder / "ledger.db")
        yield file


def spoil(ledger: Path) -> None:
    """A ledger with an event, a dead letter and all that belongs to them, every word of it nasty."""
    filled(ledger, 3)
    body = json.dumps(BODY, ensure_ascii=False).replace("\ud800", "\\ud800")
    deep = '{"deep":' + "[" * 900 + "]" * 900 + "}"
    rows = (
        ("destinations", {"id": 1, "name": "one", "ordering": "project", "active": 1, "paused_at": NOW}),
        *(("deliveries", delivery(n, state)) for n, state in ((1, "dead"), (2, "retrying"), (3, "pending"))),
        *(("attempts", attempt(n)) for n in (1, 2, 3)),
        ("sources", {"project_id": 1, "source": "issues", "watched_since": NOW, "trouble": "x", "error": "x"}),
        ("hooks", {"project_id": 1, "hook_id": 1, "name": "x", "url": "x", "triggers": "[]", "checked_at": NOW}),
        ("alerts", {"what": "dead_letters", "subject": "one", "since": NOW, "text": "x"}),
    )
    with sqlite3.connect(ledger) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        for table, row in rows:
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'search%'"
        for (table,) in db.execute(tables).fetchall():
            for _, column, kind, *_ in db.execute(f"PRAGMA table_info({table})").fetchall():
                if kind == "TEXT" and column not in OURS and not column.endswith(TIMES) and table[0] != "_":
                    own = " || id" if (table, column) in (("sightings", "source_id"), ("alerts", "subject")) else ""
                    db.execute(f"UPDATE {table} SET {column} = ?{own}", (STORED,))
        db.execute("UPDATE sightings SET payload = ?, headers = ?", (body, json.dumps({"X-Gitlab-Event": STORED})))
        db.execute("UPDATE sightings SET payload = ? WHERE id = 2", (deep,))


def delivery(event: int, state: str) -> dict[str, Any]:
    made = {"event_id": event, "destination_id": 1, "state": state, "lane": "x", "attempts": 1}
    return made | {"opened_at": NOW, "next_attempt_at": NOW, "first_attempt_at": NOW, "finished_at": NOW}


def attempt(event: int) -> dict[str, Any]:
    return {"event_id": event, "destination_id": 1, "number": 1, "started_at": NOW, "duration_ms": 5}


COMMANDS = [
    "check",
    "check --json",
    "status",
    "status --json",
    "gaps",
    "gaps --json",
    "events",
    "events --json",
    "events show 1",
    "events show 1 --json",
    "events show 2",
    "events show 2 --json",
    "dead-letters list",
    "dead-letters list --json",
    "dead-letters show 1",
    "dead-letters show 1 --json",
    "destinations list",
    "destinations list --json",
    "destinations test one --bodies",
    "destinations test one --json",
    "hooks list",
    "hooks list --json",
    "hooks ensure",
    "hooks resend --project 1",
    "backfill --from 2026-10-01 --to 2026-10-02",
    "backfill --from 2026-10-01 --to 2026-10-02 --json",
    "replay 1 --yes",
    "replay 1 --yes --json",
    "prune",
    "export",
    "export --format csv",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_acts_on_the_terminal(config: Path, command: str) -> None:
    shown = on_terminal(*command.split(), "-c", str(config))
    assert acts(shown.replace("\r\n", "").replace("\n", "")) == []
    assert "Traceback" not in shown
    assert shown.strip()
    if command.endswith("--json"):
        values = [json.loads(line) for line in shown.splitlines() if line.startswith(("{", "["))]
        assert values
        if command == "events show 1 --json":
            assert values[0]["payload"] == BODY


def test_followed_events_do_not_act_either(config: Path) -> None:
    arguments = ("-m", "reconciler", "events", "--follow", "-c", str(config))
    with Running(*arguments, terminal=True, stdout=True) as following:
        until(lambda: following.logged.count("\n") >= 3)
    assert acts(following.logged.replace("\r\n", "")) == []
    assert len(following.logged.splitlines()) == 3  # a title can't make lines of its own
