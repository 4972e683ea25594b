"""A ledger of an earlier version: commands bring it up only where no service of that version goes on with it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.storage import schema
from reconciler.ledger.storage.lock import only_service
from reconciler.ledger.storage.sqlite import SqliteDatabase
from tests.conftest import MakeService
from tests.support.service import Service

WRITING = [["destinations", "pause", "a"], ["prune"]]


@pytest.fixture
def earlier(make_service: MakeService) -> Service:
    service = make_service(destinations=[{"name": "a", "kind": "file", "path": "sent.ndjson"}])
    service.write_config()
    with closing(sqlite3.connect(service.ledger, isolation_level=None)) as conn:
        schema.migrations.apply(SqliteDatabase(conn).utils, stop_before="0010_events")
        conn.execute("INSERT INTO destinations (name, ordering, active) VALUES ('a', 'project', 1)")
    return service


def is_current(ledger: Path) -> bool:
    with closing(sqlite3.connect(ledger)) as conn:
        return schema.applied(SqliteDatabase(conn)) >= schema.migration_names()


@pytest.mark.parametrize("command", WRITING)
def test_while_a_service_has_it_no_command_brings_it_up(earlier: Service, command: list[str]) -> None:
    with only_service(earlier.ledger):
        done = earlier.run(*command)
    assert done.returncode == 1
    assert f"{earlier.ledger}: was written by an earlier version" in done.stderr
    assert "a service has it now, so that it is left as it is: restart that service with this version" in done.stderr
    assert not is_current(earlier.ledger)


@pytest.mark.parametrize("command", WRITING)
def test_where_no_service_runs_a_command_brings_it_up(earlier: Service, command: list[str]) -> None:
    done = earlier.run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert is_current(earlier.ledger)


def test_check_says_so_and_leaves_it(earlier: Service) -> None:
    done = earlier.run("check")
    assert "was written by an earlier version" in done.stdout
    assert "`gitlab-reconciler serve` brings it up" in done.stdout
    assert not is_current(earlier.ledger)
