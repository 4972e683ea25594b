"""A destination of `kind: pull` of a real service, which is killed between a batch and its acknowledgement."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.location import PostgresUrl
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService
from tests.e2e.test_delivery import post
from tests.support.ledgers import ledger_location
from tests.support.service import Service, until

TOKEN = "a-token-that-nobody-guesses"


class Job:
    """Fetches the events of a destination."""

    def __init__(self, service: Service) -> None:
        self.url = f"http://127.0.0.1:{service.config['admin']['port']}/api/v1/destinations/job/events"
        self.headers = {"Authorization": f"Bearer {TOKEN}"}

    def get(self, cursor: str = "", **params: Any) -> tuple[list[int], str]:
        answer = httpx.get(self.url, params={"cursor": cursor} | params, headers=self.headers, timeout=90)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        return [event["body"]["n"] for event in found["events"]], found["cursor"]


def test_a_kill_between_a_batch_and_its_acknowledgement_loses_nothing(make_service: MakeService) -> None:
    service = make_service(
        admin={"port": free_port(), "token": TOKEN},
        destinations=[{"name": "job", "kind": "pull", "start_from": "beginning"}],
    ).start()
    job = Job(service)
    for n in (1, 2, 3):
        post(service, 1, n)
    assert job.get(limit=2)[0] == [1, 2]
    found, cursor = job.get(limit=2)
    assert found == [1, 2]
    [row] = json.loads(service.run("destinations", "list", "--json").stdout)
    assert (row["state"], row["pending"]) == ("up", 3)
    service.kill()
    service.start()
    found, cursor = job.get(cursor)
    assert found == [3]
    service.kill()
    service.start()
    assert job.get()[0] == [3], "it was not acknowledged"
    with ThreadPoolExecutor(1) as beside:
        waits = beside.submit(job.get, cursor, wait="60s")
        until(lambda: service.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'") == [(3,)])
        post(service, 1, 4)
        found, cursor = waits.result(timeout=30)
        assert found == [4]
        waits = beside.submit(job.get, cursor, wait="60s")
        until(lambda: service.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'") == [(4,)])
        assert service.run("replay", "2", "--yes").returncode == 0
        found, cursor = waits.result(timeout=30)
        assert found == [2]
        waits = beside.submit(job.get, cursor, wait="60s")
        until(lambda: service.rows("SELECT count(*) FROM attempts") == [(5,)])
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        assert waits.result(timeout=30)[0] == [], "a stop answers those who wait"
        assert service.process.wait(timeout=30) == 0


@pytest.mark.postgresql
def test_any_copy_hands_out_and_takes_acknowledgements(make_service: MakeService, tmp_path: Path) -> None:
    with ledger_location("postgresql", tmp_path) as database:
        assert isinstance(database, PostgresUrl)
        copies = [
            make_service(
                ledger={"url": database.value},
                admin={"port": free_port(), "token": TOKEN},
                destinations=[{"name": "job", "kind": "pull"}],
            )
            for _ in range(2)
        ]
        copies[0].start()
        copies[1].launch()
        copies[1].port = copies[1].wait_for_log("listening")["port"]
        copies[1].wait_for_log("dashboard ready")
        one, other = map(Job, copies)
        post(copies[1], 1, 1)
        found, cursor = one.get()
        assert found == [1]
        with ThreadPoolExecutor(1) as beside:
            waits = beside.submit(other.get, cursor, wait="60s")  # the copy that is not the worker
            until(lambda: copies[0].rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'") == [(1,)])
            post(copies[0], 1, 2)
            assert waits.result(timeout=30)[0] == [2]
        assert one.get(cursor)[0] == [2]
        for service in copies:
            assert service.stop() == 0
