"""Copies of the service that share a ledger in PostgreSQL, and its destinations: they die, hang and lose the database
under load.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from reconciler.ledger.storage.connection import opened
from reconciler.ledger.views.copies import copies as copies_of
from reconciler.location import PostgresUrl
from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import Happening
from tests.conftest import PROJECT, MakeService, at_gitlab, to_consumer
from tests.support.copies_proof import OF_GITLAB, TWICE
from tests.support.effort import tries
from tests.support.ledgers import ledger_location
from tests.support.service import TOKEN, Service, until

pytestmark = pytest.mark.postgresql

POSTERS = 3
DESTINATIONS = 3
ROUNDS = tries(1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PostgresUrl]:
    with ledger_location("postgresql", tmp_path) as location:
        assert isinstance(location, PostgresUrl)
        yield location


Row = tuple[Any, ...]


def rows(database: PostgresUrl, sql: str) -> list[Row]:
    with opened(database, readonly=True) as db:
        return [tuple(row) for row in db.execute(sql)]


class Copies:
    """Copies of a service behind a balancer, and people at work in GitLab, whose webhooks are posted once each."""

    def __init__(self, gitlab: Simulator, services: list[Service]) -> None:
        self.gitlab = gitlab
        self.services = services
        self.acknowledged: dict[str, Happening] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(POSTERS)
        self._posters = [self._pool.submit(self._post, random.Random(seed)) for seed in range(POSTERS)]

    def stop(self) -> None:
        self._over.set()
        for poster in self._posters:
            poster.result(timeout=120)
        self._pool.shutdown()

    def work(self) -> None:
        """Wait until more was acknowledged."""
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) >= before + 20, 60)

    def _post(self, dice: random.Random) -> None:
        with httpx.Client(timeout=10) as client:
            while not self._over.wait(0.1):
                with self._lock:
                    happening = self.gitlab.world.anything(PROJECT)
                key = str(uuid.uuid4())
                headers = {"X-Gitlab-Token": TOKEN, "Idempotency-Key": key, "Content-Type": "application/json"}
                body = json.dumps(happening.webhook)
                for service in dice.sample(self.services, len(self.services)):  # one that refuses is not used
                    try:
                        answer = client.post(f"{service.url}/webhooks/gitlab", content=body, headers=headers)
                    except httpx.ConnectError:
                        continue
                    except httpx.HTTPError:
                        break
                    if answer.status_code == 200:
                        self.acknowledged[key] = happening
                    break


def start_all(services: list[Service]) -> None:
    for service in services:
        service.launch()
    for service in services:
        service.port = service.wait_for_log("listening")["port"]
        service.config["receiver"]["port"] = service.port
    until(lambda: any(is_holder(service) for service in services))


def is_holder(service: Service) -> bool:
    """Whether its worker has the ledger, or had it last."""
    events = [line.get("event") for line in service.logs]
    return "ready" in events


def holder(database: PostgresUrl, services: list[Service]) -> Service:
    """The copy whose worker has the ledger now."""
    found: list[Service] = []

    def is_found() -> bool:
        pids = {pid for (pid,) in rows(database, HOLDER)}
        found[:] = [one for one in services if one.process is not None and pids & client_pids(one)]
        return bool(found)

    until(is_found, 30)
    return found[0]


HOLDER = """
    SELECT a.client_port FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1735160323
       AND l.objid = (hashtext(current_schema())::bigint & 4294967295)::oid
"""


def client_pids(service: Service) -> set[int]:
    """The local ports of the connections of a service's worker."""
    worker = service.pid_of("worker")
    inodes = set()
    for one in Path(f"/proc/{worker}/fd").glob("*"):
        try:
            inodes.add(str(one.readlink()))
        except OSError:
            continue
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in inodes:
            ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def sections(database: PostgresUrl, gitlab: Simulator, consumer: Consumer) -> dict[str, Any]:
    return {
        "ledger": {"url": database.value},
        "destinations": [
            to_consumer(consumer, name=f"consumer{n}", url=f"{consumer.url}/{n}") for n in range(DESTINATIONS)
        ],
        **at_gitlab(gitlab, grace_period="5s"),
    }


def test_the_way_through(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer, database: PostgresUrl
) -> None:
    """Webhook to ledger to destination, and API to ledger to destination."""
    service = make_service(**sections(database, gitlab, consumer)).start()
    first = gitlab.world.anything(PROJECT)
    assert service.post(json.dumps(first.webhook).encode(), recorded=False, Idempotency_Key="a").status_code == 200
    gitlab.world.anything(PROJECT)  # its webhook is lost
    assert consumer.wait_for(lambda c: all(len(each) == 2 for each in accepted(c)))
    assert json.loads(consumer.accepted[0].body) == first.webhook
    assert service.stop() == 0
    assert rows(database, "SELECT count(*) FROM events") == [(2,)]
    status = service.run("status", "--json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["events"] == 2
    assert service.run("check").returncode in (0, 1)
    for refused in ("backup x.db", "repair"):
        done = service.run(*refused.split())
        assert done.returncode == 2
        assert "PostgreSQL" in done.stderr


@contextmanager
def no_harm(
    gitlab: Simulator, consumer: Consumer, database: PostgresUrl, services: list[Service]
) -> Iterator[Copies]:
    """Work goes on meanwhile. At the end nothing that was acknowledged is lost, and nothing is there twice."""
    start_all(services)
    copies = Copies(gitlab, services)
    try:
        yield copies
    finally:
        copies.stop()
    happened = len(gitlab.world.happenings)
    assert consumer.wait_for(lambda c: all(len(each) >= happened for each in accepted(c)), timeout_s=60)
    until(lambda: copies.acknowledged.keys() <= recorded(database))  # the API may have told of them before
    until(lambda: rows(database, "SELECT DISTINCT state FROM deliveries") == [("delivered",)])
    assert rows(database, TWICE) == []
    assert rows(database, OF_GITLAB) == [(happened,)]
    assert [len(each) for each in accepted(consumer)] == [happened] * DESTINATIONS
    assert all(in_order(each) for each in accepted(consumer))


def recorded(database: PostgresUrl) -> set[str]:
    """The webhooks that are recorded, by their keys."""
    return {key for (key,) in rows(database, "SELECT source_id FROM sightings WHERE source = 'webhook:default'")}


def accepted(consumer: Consumer) -> list[list[str]]:
    """The ids of the events that each destination has accepted, in the order in which they came first."""
    found: list[dict[str, None]] = [{} for _ in range(DESTINATIONS)]
    for one in list(consumer.accepted):
        found[int(one.path.rpartition("/")[2])].setdefault(one.event_id)
    return [list(each) for each in found]


def in_order(event_ids: list[str]) -> bool:
    """Whether each event came after those that were recorded before it."""
    numbers = [int(event_id.rpartition("-")[2].rpartition("_")[2], 10) for event_id in event_ids if event_id]
    return numbers == sorted(numbers)


def kill(service: Service, database: PostgresUrl) -> None:
    """SIGKILL the whole copy, and start it again."""
    service.kill()
    service.launch()
    service.wait_for_log("listening")


def working(service: Service) -> int | None:
    """The process of the copy that works, as `status` shows it."""
    status = service.run("status", "--json")
    assert status.returncode == 0, status.stderr
    return next((one["process"] for one in json.loads(status.stdout)["copies"] if one["works"]), None)


def process_of(service: Service) -> int:
    assert service.process is not None
    return service.process.pid


def cut_off(service: Service, database: PostgresUrl) -> None:
    """The server ends the connection that holds the ledger."""
    with psycopg.connect(database.value, autocommit=True) as server:
        server.execute(HOLDER.replace("a.client_port", "pg_terminate_backend(a.pid)"))


def stop_for_a_while(service: Service, database: PostgresUrl) -> None:
    """SIGSTOP the worker until another copy has its ledger, and let it go on."""
    worker = service.pid_of("worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        began = time.monotonic()
        until(lambda: not (client_pids(service) & {pid for (pid,) in rows(database, HOLDER)}), 30)
        print("the ledger was free after", round(time.monotonic() - began, 1), "s")
    finally:
        os.kill(worker, signal.SIGCONT)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [kill, cut_off, stop_for_a_while])
def test_another_copy_takes_over(
    fault: Callable[[Service, PostgresUrl], None],
    make_service: MakeService,
    gitlab: Simulator,
    consumer: Consumer,
    database: PostgresUrl,
) -> None:
    services = [make_service(**sections(database, gitlab, consumer)) for _ in range(3)]
    with no_harm(gitlab, consumer, database, services) as copies:
        for _ in range(ROUNDS):
            copies.work()
            fault(holder(database, services), database)
            copies.work()
            until(lambda: working(services[0]) == process_of(holder(database, services)))


def shares(database: PostgresUrl) -> dict[int, set[str]]:
    """What each copy delivers to, by its process."""
    with opened(database, readonly=True) as db:
        return {one.process: set(one.delivers) for one in copies_of(db)}


def sizes(database: PostgresUrl) -> list[int]:
    """How many destinations each copy delivers to; [] if one of them has no copy at the moment."""
    found = sorted(map(len, shares(database).values()))
    return found if sum(found) == DESTINATIONS else []


def until_moved(some: set[str], service: Service, database: PostgresUrl) -> None:
    """Wait until other copies have these destinations."""
    began = time.monotonic()

    def is_moved() -> bool:
        found = shares(database)
        found.pop(process_of(service), None)
        return some <= {name for names in found.values() for name in names}

    until(is_moved, 30, pause_s=0.1)
    print("other copies had them after", round(time.monotonic() - began, 1), "s")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_destinations_are_shared(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer, database: PostgresUrl
) -> None:
    services = [make_service(**sections(database, gitlab, consumer)) for _ in range(3)]
    with no_harm(gitlab, consumer, database, services[:2]) as copies:
        until(lambda: sizes(database) == [1, 2])
        services[2].launch()
        services[2].wait_for_log("listening")
        until(lambda: sizes(database) == [1, 1, 1])
        copies.work()
        worker = holder(database, services)
        victim, other = (one for one in services if one is not worker)

        its = shares(database)[process_of(victim)]
        victim.kill()
        until_moved(its, victim, database)
        copies.work()
        victim.launch()
        victim.wait_for_log("listening")
        until(lambda: sizes(database) == [1, 1, 1])

        its = shares(database)[process_of(other)]
        os.kill(other.pid_of("worker"), signal.SIGSTOP)
        try:
            until_moved(its, other, database)
            copies.work()
        finally:
            os.kill(other.pid_of("worker"), signal.SIGCONT)
        until(lambda: sizes(database) == [1, 1, 1])
        copies.work()

        [left] = shares(database)[process_of(other)]
        other.config["destinations"] = [one for one in other.config["destinations"] if one["name"] != left]
        other.write_config()
        os.kill(process_of(other), signal.SIGHUP)
        until_moved({left}, other, database)
        copies.work()

        status = json.loads(services[2].run("status", "--json").stdout)
        delivered_by = {one["name"]: one["delivered_by"] for one in status["destinations"]}
        for one in status["copies"]:
            for name in one["delivers"]:
                assert f"(process {one['process']})" in delivered_by.pop(name)
        assert delivered_by == {}
        assert f"(process {process_of(worker)}) works and delivers to " in services[2].run("status").stdout


def test_one_that_is_stopping_does_not_take_over(make_service: MakeService, database: PostgresUrl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts requests and answers none
        silent.settimeout(30)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        wanted = [{"name": one, "url": address, "allow_private": True, "timeout": "5s"} for one in ("one", "two")]
        services = [make_service(ledger={"url": database.value}, destinations=wanted) for _ in range(2)]
        start_all(services)
        until(lambda: sorted(map(len, shares(database).values())) == [1, 1])
        worker = holder(database, services)
        [copy] = (one for one in services if one is not worker)
        assert worker.post(b'{"object_kind": "push"}', recorded=False).status_code == 200
        attempts = [silent.accept() for _ in range(2)]  # one of each copy's
        assert copy.process is not None
        copy.process.send_signal(signal.SIGTERM)
        copy.wait_for_log("stopping")
        worker.kill()
        assert copy.process.wait(timeout=30) == 0
        assert not is_holder(copy)
        for attempt, _ in attempts:
            attempt.close()
