"""The forwarder in the real service: what is tried again, what is not, and who waits for whom."""

from __future__ import annotations

import json
import uuid
from typing import Any

import psutil
import pytest

from reconciler.simulator.consumer import ACCEPTED, Consumer
from tests.conftest import MakeService, to_consumer
from tests.support.service import Service


def post(service: Service, project: int, n: int, **more: Any) -> None:
    body = json.dumps({"object_kind": "x", "project_id": project, "n": n, **more}).encode()
    assert service.post(body, Idempotency_Key=str(uuid.uuid4())).status_code == 200


def states(service: Service) -> list[tuple[Any, ...]]:
    return service.rows("SELECT state, attempts, last_status FROM deliveries ORDER BY event_id")


def numbers(consumer: Consumer) -> list[int]:
    return [json.loads(r.body)["n"] for r in consumer.accepted]


def test_retryable_answers_are_tried_again_until_taken(make_service: MakeService, consumer: Consumer) -> None:
    answers = iter([408, 425, 429, 500, 502, 503, 504, 301])
    consumer.answer = lambda _h, _b: (next(answers, 200), {}, b"")
    service = make_service(destinations=[to_consumer(consumer)]).start()
    post(service, 1, 1)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert len({r.event_id for r in consumer.requests}) == 1
    assert [r.headers["x-reconciler-attempt"] for r in consumer.requests] == [str(n) for n in range(1, 10)]
    assert service.stop() == 0
    assert states(service) == [("delivered", 9, 200)]


def test_other_4xx_is_a_dead_letter_at_once_and_holds_nothing_up(
    make_service: MakeService, consumer: Consumer
) -> None:
    consumer.answer = lambda _h, body: (422, {}, b"I do not like it") if b'"n": 1,' in body else ACCEPTED
    service = make_service(destinations=[to_consumer(consumer)]).start()
    for n in (1, 2):
        post(service, 1, n, pad=0)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert service.stop() == 0
    assert [state[:2] for state in states(service)] == [("dead", 1), ("delivered", 1)]
    shown = json.loads(service.run("events", "show", "1", "--json").stdout)
    assert shown["deliveries"][0]["last_error"] == "HTTP 422 Unprocessable Entity: I do not like it"


def test_what_is_not_taken_in_time_is_a_dead_letter(make_service: MakeService, consumer: Consumer) -> None:
    consumer.answer = lambda _h, _b: (500, {}, b"")
    retry = {"initial_delay": "20ms", "max_delay": "50ms", "max_age": "300ms"}
    service = make_service(destinations=[to_consumer(consumer, retry=retry)]).start()
    post(service, 1, 1)
    service.wait_for_log("dead letter: not delivered in time")
    assert len(consumer.requests) > 2
    service.stop()
    assert states(service)[0][0] == "dead"


def test_retry_after_is_honoured(make_service: MakeService, consumer: Consumer) -> None:
    asked = iter([(429, {"Retry-After": "1"}, b""), (503, {"Retry-After": "1"}, b"")])
    consumer.answer = lambda _h, _b: next(asked, ACCEPTED)
    service = make_service(destinations=[to_consumer(consumer)]).start()
    post(service, 1, 1)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    first, second, third = (r.at for r in consumer.requests)
    assert second - first >= 1
    assert third - second >= 1


def test_one_event_that_makes_trouble_holds_up_only_its_own_project(
    make_service: MakeService, consumer: Consumer
) -> None:
    consumer.answer = lambda _h, body: (500, {}, b"") if b'"poison"' in body else ACCEPTED
    service = make_service(destinations=[to_consumer(consumer)]).start()
    post(service, 1, 0, poison="poison")
    for n in range(1, 31):
        post(service, 1 if n % 10 == 0 else 2 + n % 3, n)
    assert consumer.wait_for(lambda c: len(c.accepted) == 27)
    assert {json.loads(r.body)["project_id"] for r in consumer.accepted} == {2, 3, 4}
    consumer.answer = lambda _h, _b: ACCEPTED
    assert consumer.wait_for(lambda c: len(c.accepted) == 31)
    assert [n for n in numbers(consumer) if n % 10 == 0] == [0, 10, 20, 30]


def test_while_down_one_probe_at_a_time_goes_out(make_service: MakeService, consumer: Consumer) -> None:
    consumer.answer = lambda _h, _b: (503, {}, b"")
    retry = {"initial_delay": "200ms", "max_delay": "400ms"}
    service = make_service(destinations=[to_consumer(consumer, ordering="none", retry=retry, concurrency=8)]).start()
    for n in range(200):
        post(service, n, n)
    assert consumer.wait_for(lambda c: len(c.requests) >= 12)
    assert len(consumer.requests) < 60  # 200 events wait: the backlog does not go out to fail
    consumer.answer = lambda _h, _b: ACCEPTED
    assert consumer.wait_for(lambda c: len(c.accepted) == 200)


@pytest.mark.long
def test_a_backlog_is_on_disk_not_in_memory(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer, ordering="none")]).start()
    post(service, 1, 0)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    consumer.stop()
    assert service.process is not None
    process = psutil.Process(service.pid_of("worker"))
    for n in range(150):
        post(service, n, n, pad="x" * 40_000)
    before = process.memory_info().rss
    for n in range(750):
        post(service, n, n, pad="x" * 40_000)
    assert process.memory_info().rss - before < 20 * 2**20  # 30 MB of bodies came in
    consumer.start()
    assert consumer.wait_for(lambda c: len(c.accepted) == 901, timeout_s=60)


def test_destinations_do_not_wait_for_each_other(make_service: MakeService, consumer: Consumer) -> None:
    with Consumer() as slow:
        slow.delay_s = 3
        destinations = [to_consumer(consumer), {"name": "slow", "url": slow.url, "allow_private": True}]
        service = make_service(destinations=destinations).start()
        for n in range(20):
            post(service, 1, n)
        assert consumer.wait_for(lambda c: len(c.accepted) == 20, timeout_s=3)
        assert numbers(consumer) == list(range(20))


def test_a_destination_gone_from_the_config_keeps_what_it_was_owed(
    make_service: MakeService, consumer: Consumer
) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    consumer.stop()
    post(service, 1, 1)
    service.stop()
    owed, service.config["destinations"] = service.config["destinations"], []
    service.start()
    post(service, 1, 2)
    service.stop()
    service.config["destinations"] = owed
    service.start()
    consumer.start()
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert numbers(consumer) == [1]
