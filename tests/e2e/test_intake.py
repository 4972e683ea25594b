"""A webhook that the ledger refuses, and a backup while webhooks wait, in the real service."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.ledger.intake.file import intake_path
from reconciler.simulator.consumer import Consumer
from tests.conftest import MakeService, to_consumer
from tests.e2e.test_delivery import numbers, post
from tests.reconciler.recorder.world import append, webhook
from tests.support.looking import accept, refuse
from tests.support.service import Service, until


def test_one_that_the_ledger_refuses_is_kept_and_tried_again(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer, ordering="project")]).start()
    refuse(service.location, "%poison%")
    post(service, 1, 1)
    post(service, 1, 2, what="poison")
    post(service, 1, 3)
    assert consumer.wait_for(lambda c: numbers(c) == [1, 3])
    [kept] = json.loads(service.run("intake", "list", "--json").stdout)["unrecorded"]
    assert "not wanted" in kept["error"]
    shown = json.loads(service.run("intake", "show", str(kept["id"])).stdout)
    assert shown["n"] == 2
    tried = service.run("intake", "retry")
    assert (tried.returncode, "not recorded" in tried.stderr) == (1, True)
    accept(service.location)
    tried = service.run("intake", "retry")
    assert (tried.returncode, tried.stdout) == (0, "1 webhook recorded.\n")
    assert consumer.wait_for(lambda c: numbers(c) == [1, 3, 2])
    assert json.loads(service.run("intake", "list", "--json").stdout)["unrecorded"] == []


def test_one_that_is_given_up_while_the_service_runs(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    refuse(service.location, "%poison%")
    for number in (1, 2):
        post(service, 1, number, what="poison")
    post(service, 1, 3)
    assert consumer.wait_for(lambda c: numbers(c) == [3])
    older, newer = sorted(
        one["id"] for one in json.loads(service.run("intake", "list", "--json").stdout)["unrecorded"]
    )
    refused = service.run("intake", "discard", str(older), "77")
    assert (refused.returncode, "there is no webhook 77" in refused.stderr) == (1, True)
    done = service.run("intake", "discard", str(older))
    assert (done.returncode, "not wanted" in done.stdout) == (0, True)
    accept(service.location)
    assert service.run("intake", "retry").stdout == "1 webhook recorded.\n"
    assert service.run("intake", "discard", str(newer)).returncode == 1
    post(service, 1, 4)
    assert consumer.wait_for(lambda c: numbers(c) == [3, 2, 4])
    assert json.loads(service.run("intake", "list", "--json").stdout)["unrecorded"] == []


@pytest.mark.sqlite("a backup of the file")
async def test_a_backup_has_what_waits(make_service: MakeService, consumer: Consumer, tmp_path: Path) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    service.stop()
    await append(service.ledger, webhook(1), webhook(2))
    copied = service.run("backup", str(tmp_path / "copy.db"))
    assert copied.returncode == 0, copied.stderr
    remove(service)
    restored = service.run("restore", str(tmp_path / "copy.db"), "-y")
    assert restored.returncode == 0, restored.stderr
    service.start()
    assert consumer.wait_for(lambda c: len(c.accepted) == 2)
    assert service.run("backup", str(tmp_path / "beside.db")).returncode == 0  # nothing waits
    with closing(sqlite3.connect(tmp_path / "beside.db")) as db:
        until(lambda: db.execute("SELECT count(*) FROM unrecorded").fetchone() == (0,))
    assert [json.loads(r.body)["object_attributes"]["title"] for r in consumer.accepted] == ["1", "2"]


def remove(service: Service) -> None:
    """A machine that has only the copy."""
    for one in (service.ledger, intake_path(service.ledger)):
        for suffix in ("", "-wal", "-shm"):
            one.with_name(one.name + suffix).unlink(missing_ok=True)
