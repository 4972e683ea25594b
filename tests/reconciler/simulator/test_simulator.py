"""The simulated GitLab has GitLab's habits: what is tested against it would otherwise prove nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from reconciler.simulator.consumer import Consumer
from reconciler.simulator.server import Simulator


@pytest.fixture
def gitlab() -> Iterator[Simulator]:
    with Simulator() as simulator:
        simulator.world.add_project(42, "group/project")
        yield simulator


def get(gitlab: Simulator, path: str, **query: Any) -> httpx.Response:
    return httpx.get(f"{gitlab.url}/api/v4{path}", params=query, headers={"PRIVATE-TOKEN": gitlab.api.token})


def test_a_hook_is_disabled_after_the_4th_failure_and_logs_nothing_meanwhile(gitlab: Simulator) -> None:
    hook = gitlab.add_hook(42, "http://127.0.0.1:9/")
    for _ in range(3):
        gitlab.world.push(42)
    gitlab.courier.settle()
    assert get(gitlab, "/projects/42/hooks/1").json()["alert_status"] == "executable"
    for _ in range(3):
        gitlab.world.push(42)
    gitlab.courier.settle()
    shown = get(gitlab, "/projects/42/hooks/1").json()
    assert shown["alert_status"] == "temporarily_disabled"
    assert shown["disabled_until"] is not None
    log = get(gitlab, "/projects/42/hooks/1/events").json()
    assert [entry["response_status"] for entry in log] == ["internal error"] * 4
    assert hook.sent == 4


def test_the_hook_log_gives_20_a_page_and_hides_the_token(gitlab: Simulator) -> None:
    with Consumer() as consumer:
        gitlab.add_hook(42, consumer.url, token="secret")
        for _ in range(25):
            gitlab.world.push(42)
        gitlab.courier.settle()
        assert get(gitlab, "/projects/42/hooks/1/events", per_page=21).status_code == 400
        answer = get(gitlab, "/projects/42/hooks/1/events", per_page=20)
        assert len(answer.json()) == 20
        assert answer.headers["x-next-page"] == "2"
        assert "secret" not in answer.text
        assert all(r.headers["x-gitlab-token"] == "secret" for r in consumer.requests)


def test_bulk_pushes_send_no_webhook(gitlab: Simulator) -> None:
    with Consumer() as consumer:
        gitlab.add_hook(42, consumer.url)
        gitlab.world.bulk_push(42)
        gitlab.world.push(42)
        gitlab.courier.settle()
        assert len(consumer.requests) == 1
    bulk = get(gitlab, "/projects/42/events").json()[-1]
    assert (bulk["push_data"]["ref"], bulk["push_data"]["ref_count"]) == (None, 4)


def test_faults_between_gitlab_and_the_receiver(gitlab: Simulator) -> None:
    with Consumer() as consumer:
        hook = gitlab.add_hook(42, consumer.url)
        hook.event_uuid = "one-chain"
        hook.faults.drop, hook.faults.double = 1, 1
        for _ in range(3):
            gitlab.world.push(42)
        gitlab.courier.settle()
        assert len(consumer.requests) == 3  # the first dropped, the second twice
        assert consumer.requests[0].body == consumer.requests[1].body
        assert len({r.headers["idempotency-key"] for r in consumer.requests}) == 3
        assert {r.headers["x-gitlab-event-uuid"] for r in consumer.requests} == {"one-chain"}


def test_a_redirect_is_success_to_gitlab(gitlab: Simulator) -> None:
    with Consumer() as consumer:
        consumer.answer = lambda _h, _b: (301, {"Location": "http://127.0.0.1:9/"}, b"")
        hook = gitlab.add_hook(42, consumer.url)
        for _ in range(5):
            gitlab.world.push(42)
        gitlab.courier.settle()
        assert (hook.failures, len(consumer.requests)) == (0, 5)


def test_both_dates_are_excluded(gitlab: Simulator) -> None:
    gitlab.world.push(42)
    today = datetime.now(UTC).date()
    around = {"after": str(today - timedelta(days=1)), "before": str(today + timedelta(days=1))}
    assert len(get(gitlab, "/projects/42/events", **around).json()) == 1
    assert get(gitlab, "/projects/42/events", **(around | {"after": str(today)})).json() == []
    assert get(gitlab, "/projects/42/events", **(around | {"before": str(today)})).json() == []


def test_a_reopened_issue_is_opened_to_the_api(gitlab: Simulator) -> None:
    issue = gitlab.world.issue(42)
    for action in ("close", "reopen", "update"):
        gitlab.world.issue_does(42, issue, action)
    assert [r["action_name"] for r in get(gitlab, "/projects/42/events").json()] == ["opened", "closed", "opened"]


def test_totals_vanish_and_hidden_records_leave_short_pages(
    gitlab: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        gitlab.world.push(42)
    answer = get(gitlab, "/projects/42/events", per_page=10)
    assert (answer.headers["x-total"], answer.headers["x-next-page"]) == ("30", "2")
    monkeypatch.setattr("reconciler.simulator.paging.TOTALS_VANISH_AT", 30)
    gitlab.api.faults.hidden = lambda record: record["id"] % 2 == 0
    answer = get(gitlab, "/projects/42/events", per_page=10)
    assert "x-total" not in answer.headers
    assert len(answer.json()) == 5
    assert answer.headers["x-next-page"] == "2"


def test_a_wrong_token_is_401(gitlab: Simulator) -> None:
    assert httpx.get(f"{gitlab.url}/api/v4/version", headers={"PRIVATE-TOKEN": "x"}).status_code == 401


def test_a_consumer_counts_no_request_that_was_cut_short() -> None:
    with Consumer() as consumer:
        head = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
        with socket.create_connection(("127.0.0.1", consumer.port)) as sender:
            sender.sendall(head + b"123")
        httpx.post(consumer.url, content=b"whole")
        assert [request.body for request in consumer.requests] == [b"whole"]
