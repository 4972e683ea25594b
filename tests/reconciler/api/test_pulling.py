"""Fetching events over the API: shapes, tokens, and what is refused."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from reconciler.api import models
from reconciler.forwarding import waiting
from reconciler.location import Location
from tests.support.api import Client, config_for, problem, some_events

TOKEN, READ_TOKEN = "open-sesame-open-sesame", "only-look-only-look"
EVENTS = "/destinations/job/events"


def client_for(location: Location, *, events: int = 3, token: bool = True, **more: Any) -> Client:
    some_events(location, events, "job", "other")
    admin = {"port": 1} | ({"token": TOKEN, "read_token": READ_TOKEN} if token else {})
    made = [{"name": "job", "kind": "pull"} | more, {"name": "other", "kind": "stdout"}]
    return Client(
        config_for(location, admin=admin, destinations=made),
        **({"Authorization": f"Bearer {TOKEN}"} if token else {}),
    )


def test_events_are_fetched_and_acknowledged_by_the_next_request(ledger_at: Location) -> None:
    client = client_for(ledger_at)
    first = client.get(EVENTS, limit=2)
    models.Pulled.model_validate(first)
    event = first["events"][0]
    assert (event["project_id"], event["kind"], event["body"]["n"]) == (1, "note", 0)
    assert event["headers"]["webhook-id"] == event["id"] == event["headers"]["Idempotency-Key"]
    assert event["headers"]["X-Gitlab-Event"] == "Note Hook"
    row = next(one for one in client.get("/destinations")["destinations"] if one["name"] == "job")
    assert (row["kind"], row["to"], row["state"], row["pending"]) == ("pull", f"/api/v1{EVENTS}", "up", 3)
    second = client.get(EVENTS, cursor=first["cursor"], wait="60s")
    assert [one["body"]["n"] for one in second["events"]] == [2]
    assert client.get(EVENTS, cursor=second["cursor"])["events"] == []
    assert {one["state"] for one in client.get("/events/1")["deliveries"]} == {"delivered", "pending"}
    client.post("/replays", {"events": ["1"], "destination": "job"})
    [again] = client.get(EVENTS, cursor=first["cursor"])["events"]
    assert (again["id"], again["headers"]["X-Reconciler-Replay"]) == (event["id"], "1")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/plain; charset=utf-8", "0"), ("application/json", 0)],
)
def test_a_body_that_is_not_json_is_a_string(ledger_at: Location, content_type: str, body: Any) -> None:
    client = client_for(ledger_at, events=1, transform={"template": "{{ body.n }}", "content_type": content_type})
    try:
        assert client.get(EVENTS)["events"][0]["body"] == body
    finally:
        client.pulls.close()


def test_a_token_that_may_only_read_acknowledges_nothing(ledger_at: Location) -> None:
    client = client_for(ledger_at)
    for headers, found in (
        ({"Authorization": f"Bearer {READ_TOKEN}"}, (403, "this token may only read")),
        ({"Authorization": ""}, (401, "send the token as `Authorization: Bearer …`")),
    ):
        assert problem(client.send("GET", EVENTS, headers=headers)) == found


def test_a_page_elsewhere_can_t_fetch(ledger_at: Location) -> None:
    client = client_for(ledger_at, token=False)
    a_link_in_a_mail = {"Sec-Fetch-Site": "none"}
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, a_link_in_a_mail):
        assert problem(client.send("GET", EVENTS, headers=headers))[0] == 403
    for headers in ({}, a_link_in_a_mail):
        as_json = headers | {"Content-Type": "application/json"}
        assert client.send("GET", EVENTS, headers=as_json).status_code == 200


def test_too_many_at_a_time_are_told_to_come_back(ledger_at: Location) -> None:
    client = client_for(ledger_at)
    with ExitStack() as all_of_them:
        for _ in range(waiting.MOST):
            all_of_them.enter_context(client.pulls.waiting.waiter())
        answer = client.send("GET", EVENTS)
        assert problem(answer) == (503, "50 requests for events are being answered: ask again later")
        assert answer.headers["retry-after"] == "5"
    assert len(client.get(EVENTS)["events"]) == 3


def test_what_is_refused_says_why(ledger_at: Location) -> None:
    client = client_for(ledger_at)
    for path, params, status, what in (
        ("/destinations/nobody/events", {}, 404, "no destination named 'nobody' in the config"),
        ("/destinations/other/events", {}, 404, "destination 'other' is of kind stdout: only those of `kind: pull`"),
        (EVENTS, {"cursor": "x"}, 400, "cursor: is none of this destination's: send `cursor` of the answer before"),
        (EVENTS, {"limit": 1001}, 422, "query.limit: "),
        (EVENTS, {"wait": "61s"}, 422, "should be at most 60s"),
        (EVENTS, {"wait": "30"}, 422, "should be a duration with a unit"),
        (EVENTS, {"after": "x"}, 422, "query.after: "),
    ):
        found = problem(client.send("GET", path, params=params))
        assert found[0] == status
        assert what in found[1]
    client.post("/destinations/job/pause")
    paused = problem(client.send("GET", EVENTS))
    assert paused == (409, "job is paused (by hand): `destinations resume job` resumes it")
    assert "nothing is sent to job" in problem(client.send("POST", "/destinations/job/test", json={}))[1]


def test_an_empty_cursor_is_none(ledger_at: Location) -> None:
    """A script begins with an empty variable."""
    assert len(client_for(ledger_at).get(EVENTS, cursor="")["events"]) == 3
