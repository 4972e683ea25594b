"""Writes the ledger that this version leaves behind: `python -m tests.support.released_ledger`, once a release.

A real service takes webhooks from a simulated GitLab, some of which are lost and found by polling, and delivers to
destinations that accept, refuse, fail and are paused. Its ledger goes to `tests/data/ledgers/VERSION.db.gz`, and what
is in it, read by plain SQL, to `VERSION.json` beside it. `test_released_ledgers.py` upgrades it.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import PATH, PROJECT, at_gitlab
from tests.support.service import TOKEN, Service, until

FOLDER = Path(__file__).parents[1] / "data" / "ledgers"
HAPPENED = {"push": 2, "issue": 3, "merge_request": 1, "note": 2, "milestone": 2, "pipeline": 1}
LOST = 2
"""For how many of them GitLab sends no webhook: polling finds them."""


def main() -> None:
    """Write the ledger of this version and what is in it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Simulator() as gitlab,
        Consumer() as refusing,
        Consumer() as failing,
    ):
        refusing.answer = lambda _headers, _body: (400, {}, b"no")
        failing.answer = lambda _headers, _body: (503, {}, b"not now")
        gitlab.world.add_project(PROJECT, PATH)
        service = Service(Path(folder), _config(gitlab, refusing, failing)).start()
        try:
            assert service.run("destinations", "pause", "paused").returncode == 0
            _let_things_happen(gitlab, service)
            until(lambda: _is_done(service.ledger), 60)
            assert service.stop() == 0
        finally:
            service.kill()
        with closing(sqlite3.connect(service.ledger)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            content = contents(db)
        FOLDER.mkdir(exist_ok=True)
        name = version("gitlab-reconciler")
        (FOLDER / f"{name}.db.gz").write_bytes(gzip.compress(service.ledger.read_bytes(), mtime=0))
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def contents(db: sqlite3.Connection) -> dict[str, Any]:
    """What has to be there after any upgrade."""
    return {
        "events": [list(row) for row in db.execute("SELECT id, kind, happened_at FROM events ORDER BY id")],
        "deliveries": [
            list(row)
            for row in db.execute(
                "SELECT d.event_id, x.name, d.state FROM deliveries d JOIN destinations x ON x.id = d.destination_id"
                " ORDER BY d.event_id, x.name"
            )
        ],
        "ledger_id": db.execute("SELECT value FROM meta WHERE name = 'ledger_id'").fetchone()[0],
        "covered": [list(row) for row in db.execute("SELECT DISTINCT project_id, source FROM coverage ORDER BY 2")],
    }


def _config(gitlab: Simulator, refusing: Consumer, failing: Consumer) -> dict[str, Any]:
    http = {"kind": "http", "allow_private": True, "ordering": "none"}
    return {
        "receiver": {"port": 0, "hooks": [{"name": "default", "token": TOKEN}]},
        "ledger": {"path": "ledger.db"},
        **at_gitlab(gitlab),
        "destinations": [
            {"name": "accepting", "kind": "file", "path": "events.ndjson"},
            {"name": "paused", "kind": "file", "path": "paused.ndjson"},
            {"name": "refusing", "url": refusing.url, "filter": {"kinds": ["note"]}, **http},
            {"name": "failing", "url": failing.url, "filter": {"kinds": ["milestone"]}, **http},
        ],
    }


def _let_things_happen(gitlab: Simulator, service: Service) -> None:
    world = gitlab.world
    hook = gitlab.add_hook(PROJECT, f"{service.url}/webhooks/gitlab", token=TOKEN)
    world.push(PROJECT)
    issue, request = world.issue(PROJECT), world.merge_request(PROJECT)
    world.issue_does(PROJECT, issue, "update", edit="title")
    world.note(PROJECT, on=issue)
    world.note(PROJECT, on=request)
    milestone = world.milestone(PROJECT)
    world.milestone_does(PROJECT, milestone, "close")
    world.pipeline(PROJECT)
    gitlab.courier.settle()
    hook.faults.drop = LOST
    world.push(PROJECT)
    world.issue_does(PROJECT, issue, "close")
    gitlab.courier.settle()
    assert hook.faults.drop == 0


def _is_done(ledger: Path) -> bool:
    """Whether polling has found what was lost, and each delivery is as it shall stay."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        found = dict(db.execute("SELECT kind, count(*) FROM events GROUP BY kind").fetchall())
        rows = db.execute(
            "SELECT DISTINCT x.name, d.state FROM deliveries d JOIN destinations x ON x.id = d.destination_id"
        )
        states = set(rows.fetchall())
    expected = {
        ("accepting", "delivered"),
        ("paused", "pending"),
        ("refusing", "dead"),
        ("failing", "retrying"),
    }
    return found.items() >= HAPPENED.items() and states == expected


if __name__ == "__main__":
    main()
