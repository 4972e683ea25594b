"""SIGKILL of any process at any moment loses nothing that was acknowledged, and records nothing twice."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from reconciler.simulator.world import Happening
from tests.conftest import PROJECT, MakeService, at_gitlab, to_consumer
from tests.support.copies_proof import OF_GITLAB, TWICE
from tests.support.effort import tries
from tests.support.looking import INTEGRITY
from tests.support.service import TOKEN, Service

ROUNDS = tries(4)
VICTIMS = ["parent", "receiver", "receiver", "worker", "worker"]
"""Who is killed in each round, in any order. A parent takes the others with it."""
KILLS = ROUNDS * len(VICTIMS)
POSTERS = 4
LOST_WHILE_DOWN = 5
"""By each poster, each time."""


class Load:
    """People at work in GitLab, whose webhooks are posted once each, from several threads.

    While the service is down a few things happen, not more: how long it takes to start is the machine's business, and
    all that happened is delivered one by one at the end.
    """

    def __init__(self, gitlab: Simulator, service: Service) -> None:
        self.gitlab = gitlab
        self.service = service
        self.acknowledged: set[str] = set()
        self.happened: dict[str, Happening] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._is_up = threading.Event()
        self._is_up.set()
        self._pool = ThreadPoolExecutor(POSTERS)
        self._workers = [self._pool.submit(self._work) for _ in range(POSTERS)]

    def kill(self, victim: str) -> None:
        """Kill a process in the middle of it. The parent is started again here, the others by the parent."""
        if victim != "parent":
            lines = len(self.service.logs)
            os.kill(self.service.pid_of(victim), signal.SIGKILL)
            self.service.wait_for_log("process started", process=victim, after=lines)
            return
        self._is_up.clear()
        try:
            self.service.kill()
            self.service.start()
        finally:
            self._is_up.set()

    def stop(self) -> None:
        self._over.set()
        for worker in self._workers:
            worker.result(timeout=60)
        self._pool.shutdown()

    def _work(self) -> None:
        lost = 0
        with httpx.Client(timeout=5) as client:
            while not self._over.is_set():
                with self._lock:
                    happening = self.gitlab.world.anything(PROJECT)
                key = str(uuid.uuid4())
                self.happened[key] = happening
                headers = {"X-Gitlab-Token": TOKEN, "Idempotency-Key": key, "Content-Type": "application/json"}
                try:
                    answer = client.post(
                        f"{self.service.url}/webhooks/gitlab", content=json.dumps(happening.webhook), headers=headers
                    )
                except httpx.HTTPError:
                    lost += 1
                    if lost >= LOST_WHILE_DOWN:
                        self._is_up.wait()
                else:
                    lost = 0
                    if answer.status_code == 200:
                        self.acknowledged.add(key)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("ordering", ["project"])
def test_killed_at_random_under_load(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer, ordering: str
) -> None:
    # Its body is that of the webhook if GitLab is not asked before the webhook is posted.
    sections = at_gitlab(gitlab, grace_period="5s")
    service = make_service(destinations=[to_consumer(consumer, ordering=ordering)], **sections).start()
    load = Load(gitlab, service)
    dice = random.Random(20261124)
    acknowledged_before = 0
    for victim in (one for _ in range(ROUNDS) for one in dice.sample(VICTIMS, len(VICTIMS))):
        busy_until = time.monotonic() + dice.uniform(0.02, 0.3)
        while time.monotonic() < busy_until or len(load.acknowledged) == acknowledged_before:
            threading.Event().wait(0.01)  # a moment chosen at random, but never before some work was done
        acknowledged_before = len(load.acknowledged)
        load.kill(victim)
    load.stop()
    service.until_recorded(120)  # one by one after a kill, each on PostgreSQL's disk

    happened = len(gitlab.world.happenings)
    assert len(load.acknowledged) > 5 * KILLS
    recorded = {key for (key,) in service.rows("SELECT source_id FROM sightings WHERE source = 'webhook:default'")}
    assert load.acknowledged <= recorded
    # Everything that happened arrives, acknowledged or not: what was not is in GitLab's API.
    assert consumer.wait_for(lambda c: len({r.event_id for r in c.accepted}) >= happened, timeout_s=120)
    assert service.stop() == 0
    assert service.rows(INTEGRITY) == [("ok",)]
    assert service.rows(OF_GITLAB) == [(happened,)], service.rows(TWICE)
    assert service.rows("SELECT DISTINCT state FROM deliveries") == [("delivered",)]
    assert len({r.event_id for r in consumer.accepted}) == happened
    bodies = {r.body.decode() for r in consumer.accepted}
    others = [key for key in load.acknowledged if json.dumps(load.happened[key].webhook) not in bodies]
    assert [reports(service, key) for key in others] == []


def reports(service: Service, key: str) -> list[tuple[Any, ...]]:
    """The reports of an event whose webhook's own body was not sent, and when each came."""
    sql = """
        SELECT id, source, source_id, happened_at, seen_at, recovery FROM sightings
         WHERE event_id = (SELECT event_id FROM sightings WHERE source_id = ?) ORDER BY id
    """
    return service.rows(sql, key)


@pytest.mark.sqlite("a lock on the file")
def test_a_second_service_on_one_ledger_is_refused(make_service: MakeService) -> None:
    service = make_service().start()
    second = make_service(ledger={"path": str(service.ledger)})
    second.write_config()
    other = second.run("serve")
    assert other.returncode == 1
    assert "another `serve`" in other.stderr
    assert str(service.process.pid) in other.stderr if service.process else False
    service.kill()
    service.start()  # the kernel gave the right back
