"""The ledger of each released version is upgraded, and everything that was in it can still be read."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.coverage.intervals import covered
from reconciler.ledger.storage import schema
from reconciler.ledger.storage.connection import connect
from reconciler.ledger.storage.ids import event_ids
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.views import browse
from reconciler.ledger.views.dead_letters import dead_letters
from reconciler.ledger.views.status import status
from reconciler.ledger.views.unknowns import Asked
from tests.support.released_ledger import FOLDER, contents

RELEASED = sorted(file.name.removesuffix(".db.gz") for file in FOLDER.glob("*.db.gz"))


@pytest.fixture(params=RELEASED)
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def expected(version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{version}.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def upgraded(version: str, tmp_path: Path) -> Iterator[SqliteDatabase]:
    path = tmp_path / "ledger.db"
    path.write_bytes(gzip.decompress((FOLDER / f"{version}.db.gz").read_bytes()))
    with closing(connect(path)) as db:
        yield db


def test_there_is_at_least_one() -> None:
    assert RELEASED


def test_it_has_every_migration(upgraded: SqliteDatabase) -> None:
    assert schema.applied(upgraded) >= schema.migration_names()
    assert upgraded.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_nothing_was_lost(upgraded: SqliteDatabase, expected: dict[str, Any]) -> None:
    assert json.loads(json.dumps(contents(upgraded.conn))) == expected


def test_every_event_can_be_shown_under_its_id(upgraded: SqliteDatabase, expected: dict[str, Any]) -> None:
    assert len(expected["events"]) > 5
    for number, kind, happened_at in expected["events"]:
        shown = browse.show(upgraded, number)
        assert shown is not None
        assert (shown["kind"], shown["happened_at"]) == (kind, happened_at)
        assert json.loads(shown["payload"])
        assert event_ids(upgraded)(number) == f"evt_{expected['ledger_id']}_{number}"


def test_status_counts_its_deliveries(upgraded: SqliteDatabase, expected: dict[str, Any]) -> None:
    asked = Asked("https://gitlab.example", True, [], Millis(0))
    found = status(upgraded, asked=asked, keeps={}, expected=Millis(0), now=times.now())
    counted = Counter((name, state) for _, name, state in expected["deliveries"])
    assert {one.name: one.pending for one in found.destinations} == {
        name: counted[name, "pending"] + counted[name, "retrying"]
        for name in ("accepting", "failing", "paused", "refusing")
    }
    assert {one.name for one in found.destinations if one.state.startswith("paused")} == {"paused"}
    assert found.projects


def test_its_dead_letters_are_listed(upgraded: SqliteDatabase, expected: dict[str, Any]) -> None:
    dead = [number for number, _, state in expected["deliveries"] if state == "dead"]
    listed = dead_letters(upgraded, browse.Filter(), destination=None, limit=100)
    assert dead
    assert sorted(one["id"] for one in listed) == dead


def test_its_coverage_can_be_read(upgraded: SqliteDatabase, expected: dict[str, Any]) -> None:
    assert expected["covered"]
    for project_id, source in expected["covered"]:
        assert covered(upgraded, project_id, source)
