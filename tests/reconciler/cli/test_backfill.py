"""`backfill` and the destinations: it adds what a ledger without a service lacks, and switches nothing on or off."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import EVENTS_ONLY, PROJECT, MakeService, at_gitlab, to_consumer
from tests.support.service import Service


def rows(service: Service, sql: str) -> list[Any]:
    with sqlite3.connect(service.ledger) as db:
        return db.execute(sql).fetchall()


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def test_beside_a_service_only_the_service_decides(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    """The config was edited and not yet read again: backfill must not act on it before the service does."""
    sections = at_gitlab(gitlab, interval="60s", **EVENTS_ONLY)
    service = make_service(destinations=[to_consumer(consumer)], **sections).start()
    service.wait_for_log("caught up with GitLab")
    gitlab.world.push(PROJECT)
    service.config["destinations"] = [to_consumer(consumer, name="renamed")]
    service.write_config()
    done = service.run("backfill", "--from", today())
    assert done.returncode == 0, done.stderr
    assert "destination renamed: receives none of these events" in done.stderr
    assert rows(service, "SELECT name, active FROM destinations") == [("consumer", 1)]


def test_where_a_service_never_ran_they_are_added_once(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab))
    service.write_config()
    gitlab.world.push(PROJECT)
    assert service.run("backfill", "--from", today()).returncode == 0
    assert rows(service, "SELECT name, active FROM destinations") == [("consumer", 1)]
    assert rows(service, "SELECT state, count(*) FROM deliveries") == [("pending", 1)]
    service.config["destinations"] = []  # and without it they stay as they are
    service.write_config()
    gitlab.world.push(PROJECT)
    assert service.run("backfill", "--from", today()).returncode == 0
    assert rows(service, "SELECT name, active FROM destinations") == [("consumer", 1)]
