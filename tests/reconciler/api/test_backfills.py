"""Backfills as jobs of the API: started, followed, one at a time, and said to be interrupted if they were."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx

from reconciler.api.backfills import BackfillJob
from reconciler.events import times
from reconciler.events.times import DAY, Millis
from reconciler.ledger.coverage import backfills
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.location import Location
from reconciler.simulator.ports import free_port
from reconciler.simulator.server import Simulator
from tests.conftest import EVENTS_ONLY, PROJECT, MakeService, at_gitlab
from tests.support.api import BASE, Client, config_for, problem, some_events
from tests.support.service import Service, until


def api(service: Service) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{service.config['admin']['port']}", timeout=30)


def start(client: httpx.Client, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"from": datetime.now(UTC).date().isoformat(), "project": str(PROJECT)}
    return client.post(f"{BASE}/backfills", json=body | {"dry_run": "dry" in headers}, headers=headers)


def ended(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    """The backfill that this answer began, once it has ended."""
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = {}

    def has_ended() -> bool:
        found.update(client.get(answer.headers["location"]).json())
        return bool(found["state"] != "running")

    until(has_ended)
    BackfillJob.model_validate(found)
    return found


def test_one_is_started_and_followed(make_service: MakeService, gitlab: Simulator) -> None:
    service = make_service(admin={"port": free_port()}, **at_gitlab(gitlab, interval="1h", **EVENTS_ONLY)).start()
    service.wait_for_log("caught up with GitLab")
    with api(service) as client:
        gitlab.world.push(PROJECT)
        tried = ended(client, start(client, dry="1"))
        assert (tried["state"], tried["dry_run"], tried["projects"][0]["new"]) == ("done", True, 1)
        assert service.rows("SELECT count(*) FROM events") == [(0,)]
        first = start(client, **{"Idempotency-Key": "b1"})
        found = ended(client, first)
        assert (found["state"], found["progress"], found["project"]) == ("done", 1.0, str(PROJECT))
        assert found["projects"][0]["new"] == 1
        assert service.rows("SELECT count(*) FROM events") == [(1,)]
        again = start(client, **{"Idempotency-Key": "b1"})
        assert (again.status_code, again.headers["location"]) == (202, first.headers["location"])
        assert again.json()["id"] == found["id"] != tried["id"]
    assert service.stop() == 0
    service.start()
    with api(service) as client:  # its result outlives the service
        assert client.get(first.headers["location"]).json() == found


def test_one_that_the_service_did_not_survive_was_interrupted(make_service: MakeService, gitlab: Simulator) -> None:
    service = make_service(admin={"port": free_port()}, **at_gitlab(gitlab, interval="1h", **EVENTS_ONLY)).start()
    service.wait_for_log("caught up with GitLab")
    for end in (service.kill, service.stop):
        gitlab.api.faults.next = [(429, {"Retry-After": "600"})]
        with api(service) as client:
            began = start(client)
            assert (began.status_code, began.json()["state"]) == (202, "running")
            until(lambda: not gitlab.api.faults.next)
            refused = start(client)
            assert problem(refused) == (
                409, f"the backfill {began.json()['id']} is running: wait until it has ended",
            )  # fmt: skip
        end()
        service.start()
        with api(service) as client:
            found = ended(client, began)
            assert found["state"] == "interrupted"
            assert found["finished_at"] is not None
        service.wait_for_log("caught up with GitLab")


WRONG: list[tuple[Any, int, str]] = [
    ({}, 422, "body.from"),
    ({"from": "soon"}, 422, "'soon' is not a date"),
    ({"from": "2026-11-02", "to": "2026-11-01"}, 422, "the start must be before the end"),
    ({"from": "2001-01-01", "to": "2001-02-01"}, 422, "nothing in this range can be read"),
    ({"from": "1d", "dryrun": True}, 422, "body.dryrun"),
    ({"from": "1d"}, 409, "does not read from GitLab now"),
]


def test_what_is_wrong_is_said(ledger_at: Location) -> None:
    some_events(ledger_at, 1)
    client = Client(config_for(ledger_at))
    for body, code, words in WRONG:
        found = problem(client.send("POST", "/backfills", json=body))
        assert (found[0], words in found[1]) == (code, True), (body, found)
    assert problem(client.send("GET", "/backfills/none")) == (404, "there is no backfill 'none'")


def test_a_range_with_pruned_events_is_refused(ledger_at: Location) -> None:
    some_events(ledger_at, 1)
    pruned = times.iso(Millis(times.now() - 2 * DAY))
    with closing(connect(ledger_at)) as db, transaction(db):
        meta.put(db, "pruned_through", pruned)
    client = Client(config_for(ledger_at))
    found = problem(client.send("POST", "/backfills", json={"from": "3d"}))
    assert (found[0], f"events up to {pruned} were pruned" in found[1]) == (422, True)
    for body in ({"from": "1d"}, {"from": "3d", "dry_run": True}):
        assert problem(client.send("POST", "/backfills", json=body))[0] == 409


def test_nothing_is_read_without_a_token(make_service: MakeService) -> None:
    service = make_service(admin={"port": free_port()}).start()
    service.wait_for_log("dashboard ready")
    with api(service) as client:
        assert problem(start(client))[1].startswith(("nothing is read from GitLab", "this process does not"))


def test_the_latest_are_kept(ledger_at: Location) -> None:
    idents = [f"b{n:02}" for n in range(backfills.KEPT + 2)]
    with closing(connect(ledger_at)) as db, transaction(db):
        for n, ident in enumerate(idents):
            backfills.note(db, ident, {"id": ident, "state": "done", "started_at": times.iso(Millis(n))})
        assert [one for one in idents if backfills.find(db, one) is not None] == idents[2:]


def test_one_that_did_not_end_was_interrupted(ledger_at: Location) -> None:
    def states() -> list[tuple[str, str | None]]:
        found = [backfills.find(db, ident) or {} for ident in "abc"]
        return [(one["state"], one.get("finished_at")) for one in found]

    first, second, third = ({"state": "running", "started_at": times.iso(Millis(n))} for n in range(3))
    with closing(connect(ledger_at)) as db, transaction(db):
        backfills.note(db, "a", first)
        backfills.note(db, "a", first | {"state": "done"})
        backfills.note(db, "b", second)
        backfills.note(db, "c", third)  # the end of `b` could not be noted
        assert states() == [("done", None), ("interrupted", times.iso(Millis(2))), ("running", None)]
        for _ in range(2):
            backfills.interrupt(db, now=Millis(7))
            assert states()[2] == ("interrupted", times.iso(Millis(7)))
        assert backfills.find(db, "d") is None
