"""A consumer that answers 500 to one event for ever: who waits behind it is said, and a command skips it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx

from reconciler.events import times
from reconciler.ledger.queue import deliveries, in_the_way
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.simulator.consumer import ACCEPTED, Consumer
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService, to_consumer
from tests.e2e.test_delivery import numbers, post, states
from tests.e2e.test_destinations import alerts_to, said
from tests.support import outcomes
from tests.support.service import Service, until

QUICK: dict[str, Any] = {
    "retry": {"initial_delay": "10ms", "max_delay": "40ms"},
    "breaker": {"failures": 3, "max_delay": "40ms", "recovery_hold": "1s"},
}


def poisoned(_: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
    return (500, {}, b"I choke on it") if b"poison" in body else ACCEPTED


@contextmanager
def paused(service: Service) -> Iterator[None]:
    assert service.run("destinations", "pause", "consumer").returncode == 0
    service.wait_for_log("destination paused")
    yield
    assert service.run("destinations", "resume", "consumer").returncode == 0


def stuck(service: Service, name: str = "consumer") -> dict[str, Any] | None:
    found = json.loads(service.run("status", "--json").stdout)["destinations"]
    return next((one["blocked_by"] for one in found if one["name"] == name), None)


def test_in_the_only_lane_it_makes_the_destination_look_down(make_service: MakeService, consumer: Consumer) -> None:
    consumer.answer = poisoned
    service = make_service(destinations=[to_consumer(consumer, **QUICK)], admin={"port": free_port()}).start()
    dashboard = service.wait_for_log("dashboard ready")["url"]
    with paused(service):  # so that all wait before the first attempt
        post(service, 1, 0)
        post(service, 1, 1, poison=True)
        for n in range(2, 7):
            post(service, 1, n)
    until(lambda: stuck(service) is not None)
    found = stuck(service)
    assert found is not None
    assert (found["event_id"], found["behind"]) == (2, 5)
    assert found["failures"] >= in_the_way.FAILURES
    words = "event 2 (x in 1) blocks its lane: tried "
    advice = "5 wait behind it; `destinations skip consumer 2` makes it a dead letter"
    until(lambda: "alert: consumer has not accepted events" in service.run("status").stdout)
    printed = service.run("status").stdout
    assert printed.count(words) == printed.count(advice) == 2  # of the destination, and in the alert
    assert advice in httpx.get(dashboard).text.replace("&#39;", "'")
    assert numbers(consumer) == [0]

    assert service.run("destinations", "skip", "consumer", "2").returncode == 0
    assert consumer.wait_for(lambda c: len(c.accepted) == 6)
    assert numbers(consumer) == [0, 2, 3, 4, 5, 6]
    assert stuck(service) is None
    [letter] = [json.loads(line) for line in service.run("dead-letters", "list", "--json").stdout.splitlines()]
    assert letter["id"] == 2
    assert letter["last_error"].startswith("skipped manually, after: HTTP 500")
    again = service.run("destinations", "skip", "consumer", "2")
    assert (again.returncode, "event 2 is not pending for consumer" in again.stderr) == (1, True)
    consumer.answer = lambda _h, _b: ACCEPTED
    assert service.run("dead-letters", "replay", "2", "-y").returncode == 0
    assert consumer.wait_for(lambda c: len(c.accepted) == 7)


def test_beside_other_lanes_it_is_an_alert_of_its_own(make_service: MakeService, consumer: Consumer) -> None:
    consumer.answer = poisoned
    with Consumer() as ops:
        patient = QUICK | {"breaker": {"failures": 1000}}
        service = make_service(destinations=[to_consumer(consumer, **patient), alerts_to(ops)]).start()
        with paused(service):
            post(service, 1, 1, poison=True)
            for n in range(2, 5):
                post(service, 1, n)
                post(service, 2, 10 * n)
        assert ops.wait_for(lambda c: len(c.accepted) == 1)
        assert said(ops) == [("lane_blocked", "consumer", "opened")]
        assert "3 wait behind it" in json.loads(ops.accepted[0].body)["text"]
        assert sorted(numbers(consumer)) == [20, 30, 40]
        assert service.run("destinations", "skip", "consumer", "1").returncode == 0
        until(lambda: ("lane_blocked", "consumer", "over") in said(ops))
        until(lambda: [state for state, *_ in states(service)][:7].count("delivered") == 6)


def test_where_nobody_waits_it_is_in_nobody_s_way(make_service: MakeService, consumer: Consumer) -> None:
    consumer.answer = poisoned
    service = make_service(destinations=[to_consumer(consumer, ordering="none", **QUICK)]).start()
    post(service, 1, 1, poison=True)
    for n in range(2, 5):
        post(service, 1, n)
    assert consumer.wait_for(lambda c: len(c.accepted) == 3 and len(c.requests) > 8)
    assert stuck(service) is None


def test_an_attempt_that_is_on_its_way_does_not_bring_it_back(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    service.run("destinations", "pause", "consumer")
    service.wait_for_log("destination paused")
    post(service, 1, 1)
    service.stop()
    with closing(connect(service.location)) as db, transaction(db):
        assert in_the_way.skip(db, 1, 1, now=times.now())
        tried = deliveries.Attempt(1, 1, None, 1, times.now(), times.now(), 500, "http_5xx", "HTTP 500")
        outcomes.retry(db, tried, pause=times.SECOND, now=times.now())
        assert db.execute("SELECT state FROM deliveries").fetchall() == [("dead",)]
        assert db.execute("SELECT count(*) FROM lanes").fetchall() == [(0,)]
