"""What the API changes: replays and destinations; once for each `Idempotency-Key`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from reconciler.api.once import carried_out
from reconciler.api.problems import Problem
from reconciler.api.service import Service
from reconciler.api.stream import Listeners
from reconciler.events import times
from reconciler.events.times import DAY, Millis
from reconciler.forwarding import replaying
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger.errors import LedgerBusy
from reconciler.ledger.queue import once, replay
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.views.unknowns import Known
from reconciler.location import Location
from reconciler.polling.backfill_jobs import BackfillJobs
from reconciler.simulator.consumer import Consumer
from tests.conftest import to_consumer
from tests.support.api import Client, config_for, problem, some_events


@pytest.fixture
def client(ledger_at: Location, consumer: Consumer) -> Client:
    """With four events for two destinations, two of which are dead letters of the first."""
    some_events(ledger_at, 4, "consumer", "other")
    with closing(connect(ledger_at)) as db, transaction(db):
        db.execute("UPDATE deliveries SET state = CASE WHEN destination_id = 1 AND event_id < 3 THEN 'dead' "
                   "ELSE 'delivered' END")  # fmt: skip
    made = [to_consumer(consumer, ordering="none"), {"name": "other", "kind": "stdout"}]
    return Client(config_for(ledger_at, destinations=made))


def replays(ledger: Location) -> list[tuple[int, int]]:
    with closing(connect(ledger)) as db:
        return db.execute("SELECT event_id, replays FROM deliveries WHERE replays > 0 ORDER BY event_id, "
                          "destination_id").fetchall()  # fmt: skip


def test_a_replay_is_counted_first_and_then_done(client: Client, ledger_at: Location) -> None:
    letters = {"dead_letters": True, "kind": "note"}
    assert client.post("/replays", letters | {"dry_run": True}) == {
        "destinations": {"consumer": 2, "other": 0}, "replayed": 0,
    }  # fmt: skip
    assert replays(ledger_at) == []
    assert client.post("/replays", letters)["replayed"] == 2
    assert replays(ledger_at) == [(1, 1), (2, 1)]
    assert client.post("/replays", {"events": ["4"], "destination": "other"})["replayed"] == 1
    assert replays(ledger_at) == [(1, 1), (2, 1), (4, 1)]
    assert client.get("/dead-letters")["dead_letters"] == []


def test_a_request_that_is_sent_again_is_not_carried_out_again(client: Client, ledger_at: Location) -> None:
    key = {"Idempotency-Key": "7d0f"}
    first = client.post("/replays", {"events": ["1"]}, **key)
    assert client.post("/replays", {"events": ["1"]}, **key) == first == {
        "destinations": {"consumer": 1, "other": 1}, "replayed": 2,
    }  # fmt: skip
    assert replays(ledger_at) == [(1, 1), (1, 1)]
    found = problem(client.send("POST", "/replays", json={"events": ["2"]}, headers=key))
    assert found == (422, "Idempotency-Key: was used for another request: make up a new one")
    wrong = {"Idempotency-Key": "8"}
    for _ in range(2):  # what changed nothing may be sent again
        assert problem(client.send("POST", "/replays", json={"events": ["9"]}, headers=wrong))[0] == 422
    assert client.post("/replays", {"events": ["2"]}, **wrong)["replayed"] == 2


def api_service(ledger_at: Location) -> Service:
    config = config_for(ledger_at)
    return Service(
        lambda: config,
        lambda: Known([], []),
        Listeners(ledger_at),
        BackfillJobs(),
        Pulls(lambda: config),
        lambda: None,
    )


def test_what_was_interrupted_is_not_carried_out_again(client: Client, ledger_at: Location) -> None:
    service = api_service(ledger_at)

    def fail() -> Any:
        raise OSError

    with pytest.raises(OSError):
        carried_out(service, "key", [], fail)
    with pytest.raises(Problem) as raised:
        carried_out(service, "key", [], fail)
    assert raised.value.status == 409


def test_what_changed_nothing_for_want_of_the_ledger_may_be_sent_again(client: Client, ledger_at: Location) -> None:
    service = api_service(ledger_at)

    def fail() -> Any:
        raise LedgerBusy("in use")

    with pytest.raises(LedgerBusy):
        carried_out(service, "key", [], fail)
    assert carried_out(service, "key", [], lambda: {"done": 1}).body == b'{"done":1}'


def test_a_replay_that_was_interrupted_is_not_carried_out_again(
    client: Client, ledger_at: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [1]

    def queue(*_: Any, **__: Any) -> None:
        if not steps:
            raise LedgerBusy("in use")
        steps.pop()

    monkeypatch.setattr(replay, "queue_replays", queue)
    monkeypatch.setattr(replaying, "EVENTS_A_STEP", 1)
    body, key = {"events": ["1"]}, {"Idempotency-Key": "a"}
    found = problem(client.send("POST", "/replays", json=body, headers=key))
    assert found == (503, "1 deliveries were queued, the others were not: in use")
    assert problem(client.send("POST", "/replays", json=body, headers=key))[0] == 409
    found = problem(client.send("POST", "/replays", json=body, headers={"Idempotency-Key": "b"}))
    assert found == (503, "in use")


def test_keys_are_kept_for_a_day(ledger_at: Location) -> None:
    now = times.now()
    with closing(connect(ledger_at)) as db:
        assert once.begin(db, "a", "x", now=now) is None
        once.complete(db, "a", "x", "{}", begun=now)
        assert once.begin(db, "a", "x", now=Millis(now + DAY)) == once.Kept("x", now, "{}")
        assert once.begin(db, "a", "y", now=Millis(now + DAY + 1)) is None
        assert once.begin(db, "b", "x", now=Millis(now + 3 * DAY)) is None
        assert db.execute("SELECT count(*) FROM meta WHERE name LIKE 'request:%'").fetchone()[0] == 1


def test_a_destination_is_paused_and_resumed(client: Client) -> None:
    assert client.post("/destinations/consumer/pause")["state"] == "paused (by hand)"
    assert client.get("/destinations")["destinations"][0]["state"] == "paused (by hand)"
    assert client.post("/destinations/consumer/resume")["state"] == "up"


def test_a_test_event_is_sent(client: Client, consumer: Consumer) -> None:
    found = client.post("/destinations/consumer/test")
    assert (found["accepted"], found["status"]) == (True, 200)
    assert consumer.accepted[0].headers["webhook-id"] == found["id"]
    consumer.answer = lambda _h, _b: (422, {}, b"no")
    found = client.post("/destinations/consumer/test")
    assert (found["accepted"], found["status"], found["response"]) == (False, 422, "no")


WRONG: list[tuple[str, Any, int, str]] = [
    ("/replays", {}, 422, "say which events"),
    ("/replays", {"kind": "push"}, 422, "say which events"),
    ("/replays", {"events": ["x"]}, 422, "'x' is not an event ID"),
    ("/replays", {"events": ["7", "1"]}, 422, "not in this ledger: 7; nothing was replayed"),
    ("/replays", {"events": ["1"] * 1001}, 422, "body.events"),
    ("/replays", {"dead_letters": True, "destination": "nobody"}, 422, "no destination named 'nobody'"),
    ("/replays", {"dead_letters": True, "dryrun": True}, 422, "body.dryrun"),
    ("/replays", {"from": "soon"}, 422, "'soon' is not a date"),
    ("/replays", {"since": "7d", "dry_run": True}, 422, "body.since"),
    ("/replays", {"events": ["1"], "kind": "push"}, 422, "events: can't be combined with"),
    ("/replays", [], 422, "body"),
    ("/destinations/nobody/pause", {}, 404, "no destination 'nobody'"),
    ("/destinations/nobody/resume", {}, 404, "no destination 'nobody'"),
    ("/destinations/nobody/test", {}, 404, "no destination named 'nobody'"),
    ("/events", {}, 405, "POST is not possible"),
]


def test_what_is_wrong_changes_nothing(client: Client, ledger_at: Location) -> None:
    for path, body, code, words in WRONG:
        found = problem(client.send("POST", path, json=body))
        assert (found[0], words in found[1]) == (code, True), (path, body, found)
    found = problem(client.send("POST", "/replays", data={"events": "1"}, headers={"Authorization": "Bearer x"}))
    assert found == (415, "the body must be JSON: send `Content-Type: application/json`")
    found = problem(client.send("POST", "/replays", content=b"{", headers={"Content-Type": "application/json"}))
    assert (found[0], "the body is not JSON" in found[1]) == (400, True)
    for body in (b"{", b'{"events": ["\\ud800"]}', b"\xff", b"[" * 60_000):
        headers = {"Content-Type": "application/json"}
        assert problem(client.send("POST", "/replays", content=body, headers=headers))[0] in (400, 422)
    assert problem(client.send("POST", "/replays", json={}, headers={"Idempotency-Key": "x" * 300}))[0] == 422
    assert replays(ledger_at) == []
