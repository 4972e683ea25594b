"""Webhook to ledger to destination, and API to ledger to destination, through the real process."""

from __future__ import annotations

import json
import uuid

import pytest

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator
from tests.conftest import PAYLOADS, PROJECT, MakeService, at_gitlab, to_consumer
from tests.support.service import TOKEN

RECORDED = sorted(PAYLOADS.glob("*/*.json"))


def test_every_recorded_payload_arrives_byte_for_byte(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    assert len(RECORDED) > 70
    sent = {}
    for file in RECORDED:
        key, body = str(uuid.uuid4()), file.read_bytes()
        answer = service.post(body, Idempotency_Key=key, X_Gitlab_Event="Some Hook", X_Gitlab_Event_UUID=key)
        assert (answer.status_code, answer.content) == (200, b""), file
        sent[key] = body
    assert consumer.wait_for(lambda c: len(c.requests) >= len(sent))
    assert {r.headers["x-gitlab-event-uuid"]: r.body for r in consumer.accepted} == sent
    assert len({r.event_id for r in consumer.accepted}) == len(sent)
    for request in consumer.accepted:
        assert request.headers["idempotency-key"] == request.headers["webhook-id"]
        assert "x-gitlab-token" not in request.headers
        assert request.headers["x-gitlab-event"] == "Some Hook"


def test_a_repeated_delivery_changes_nothing(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    body = json.dumps({"object_kind": "note", "project_id": 1, "object_attributes": {"id": 7}}).encode()
    for _ in range(3):
        assert service.post(body, Idempotency_Key="one").status_code == 200
    assert service.post(b'{"object_kind":"last"}', Idempotency_Key="two").status_code == 200
    assert consumer.wait_for(lambda c: any(b"last" in r.body for r in c.requests))
    assert [r.body for r in consumer.accepted].count(body) == 1


def test_deliveries_of_one_chain_share_an_event_uuid_and_are_all_kept(
    make_service: MakeService, consumer: Consumer
) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    bodies = [json.dumps({"object_kind": "note", "object_attributes": {"id": n}}).encode() for n in range(1, 6)]
    for body in bodies:
        assert service.post(body, X_Gitlab_Event_UUID="the-same").status_code == 200
    assert consumer.wait_for(lambda c: len(c.requests) >= len(bodies))
    assert sorted(r.body for r in consumer.accepted) == sorted(bodies)


def test_what_webhooks_missed_is_recovered_and_nothing_comes_twice(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab)).start()
    hook = gitlab.add_hook(PROJECT, service.url + "/webhooks/gitlab", token=TOKEN)
    world = gitlab.world
    for n in range(30):
        hook.faults.drop = n % 3 == 0
        hook.faults.double = n % 3 == 1
        world.anything(PROJECT)
        gitlab.courier.settle()
    world.bulk_push(PROJECT)
    happened = len(world.happenings)
    assert consumer.wait_for(lambda c: len({r.event_id for r in c.accepted}) >= happened)
    service.wait_for_log("a window was read")
    assert service.stop() == 0
    assert len(consumer.accepted) == happened
    assert service.rows("SELECT count(*) FROM events") == [(happened,)]
    by_webhook = "SELECT event_id FROM sightings WHERE source <> 'project_events'"
    assert service.rows(f"SELECT count(*) FROM events WHERE id NOT IN ({by_webhook})") == [(11,)]


def test_downtime_is_healed_at_the_next_start(
    make_service: MakeService, gitlab: Simulator, consumer: Consumer
) -> None:
    service = make_service(destinations=[to_consumer(consumer)], **at_gitlab(gitlab)).start()
    gitlab.add_hook(PROJECT, service.url + "/webhooks/gitlab", token=TOKEN)
    gitlab.world.push(PROJECT)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    service.wait_for_log("caught up with GitLab")
    service.kill()
    for _ in range(6):  # the hook fails, and is disabled after the 4th failure
        gitlab.world.anything(PROJECT)
    gitlab.courier.settle()
    assert gitlab.courier.hooks[1].alert_status == "temporarily_disabled"
    assert len(gitlab.courier.hooks[1].log) == 5
    service.start()
    assert consumer.wait_for(lambda c: len({r.event_id for r in c.accepted}) == 7)


def test_sigterm_ends_what_is_in_flight(make_service: MakeService, consumer: Consumer) -> None:
    consumer.delay_s = 0.5
    service = make_service(destinations=[to_consumer(consumer)]).start()
    assert service.post(b'{"object_kind":"x"}').status_code == 200
    service.wait_for_log("listening")
    assert service.stop() == 0
    [(state,)] = service.rows("SELECT state FROM deliveries")
    assert state in ("delivered", "pending")
    assert (state == "delivered") == bool(consumer.accepted)


@pytest.mark.parametrize("ordering", ["project", "none"])
def test_a_destination_that_was_down_gets_everything(
    make_service: MakeService, consumer: Consumer, ordering: str
) -> None:
    service = make_service(destinations=[to_consumer(consumer, ordering=ordering)]).start()
    consumer.stop()
    bodies = [json.dumps({"object_kind": "x", "project_id": n % 3 + 1, "n": n}).encode() for n in range(60)]
    for body in bodies:
        assert service.post(body, Idempotency_Key=str(uuid.uuid4())).status_code == 200
    consumer.start()
    assert consumer.wait_for(lambda c: len(c.accepted) >= len(bodies))
    assert sorted(r.body for r in consumer.accepted) == sorted(bodies)
    if ordering == "project":
        for project in (1, 2, 3):
            order = [
                json.loads(r.body)["n"] for r in consumer.accepted if json.loads(r.body)["project_id"] == project
            ]
            assert order == sorted(order)
