"""Destinations of a running service: added, changed, paused, removed, down, gone; and what is said about it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reconciler.simulator.consumer import ACCEPTED, Consumer
from tests.conftest import MakeService, to_consumer
from tests.e2e.test_delivery import numbers, post, states
from tests.support.filled import filled
from tests.support.service import Service, until

QUICK = {"breaker": {"failures": 3, "max_delay": "200ms", "recovery_hold": "300ms"}}


def alerts_to(consumer: Consumer) -> dict[str, Any]:
    return {"name": "ops", "url": consumer.url, "allow_private": True, "type": "alerts"}


def said(consumer: Consumer) -> list[tuple[str, str, str]]:
    """What was said, as one hears it who knows repeats (a kill may make one) by their ids."""
    bodies = {request.event_id: json.loads(request.body) for request in consumer.accepted}.values()
    return [(body["alert"], body["subject"], body["state"]) for body in bodies]


def reload(service: Service, *destinations: dict[str, Any]) -> str:
    service.config["destinations"] = list(destinations)
    service.write_config()
    return service.reload()


def test_paused_is_paused_until_resumed_and_nothing_is_lost(make_service: MakeService, consumer: Consumer) -> None:
    with Consumer() as other:
        service = make_service(
            destinations=[to_consumer(consumer), {"name": "other", "url": other.url, "allow_private": True}]
        ).start()
        post(service, 1, 1)
        assert consumer.wait_for(lambda c: len(c.accepted) == 1)
        assert service.run("destinations", "pause", "consumer").returncode == 0
        service.wait_for_log("destination paused")
        for n in (2, 3):
            post(service, 1, n)
        assert other.wait_for(lambda c: len({r.event_id for r in c.accepted}) == 3)  # the other goes on
        service.kill()
        service.start()
        post(service, 1, 4)
        assert other.wait_for(lambda c: len({r.event_id for r in c.accepted}) == 4)
        assert numbers(consumer) == [1]
        listed = {row["name"]: row for row in json.loads(service.run("destinations", "list", "--json").stdout)}
        assert (listed["consumer"]["state"], listed["consumer"]["pending"]) == ("paused (by hand)", 3)
        assert "paused (by hand)" in service.run("status").stdout
        assert service.run("destinations", "resume", "consumer").returncode == 0
        assert consumer.wait_for(lambda c: len(c.accepted) == 4)
        assert numbers(consumer) == [1, 2, 3, 4]
        nobody = service.run("destinations", "pause", "nobody")
        assert (nobody.returncode, "knows no destination 'nobody'" in nobody.stderr) == (1, True)


def test_a_reload_adds_changes_and_takes_away(make_service: MakeService, consumer: Consumer) -> None:
    with Consumer() as second:
        service = make_service(destinations=[to_consumer(consumer)]).start()
        post(service, 1, 1)
        assert consumer.wait_for(lambda c: len(c.accepted) == 1)
        new = {"name": "second", "url": second.url, "allow_private": True, "filter": {"projects": [2]}}
        assert reload(service, to_consumer(consumer), new) == ""
        post(service, 1, 2)
        post(service, 2, 3)
        assert second.wait_for(lambda c: len(c.accepted) == 1)
        assert consumer.wait_for(lambda c: len(c.accepted) == 3)
        assert numbers(second) == [3]
        assert reload(service, to_consumer(consumer, headers={"X-New": "yes"})) == ""
        post(service, 2, 4)
        assert consumer.wait_for(lambda c: len(c.accepted) == 4)
        assert consumer.accepted[-1].headers["x-new"] == "yes"
        assert numbers(second) == [3]
        assert [row["state"] for row in json.loads(service.run("destinations", "list", "--json").stdout)] == [
            "up",
            "not in the config",
        ]
        there = service.run("destinations", "remove", "consumer", "-y")
        assert (there.returncode, "take it out" in there.stderr) == (2, True)
        assert service.run("destinations", "remove", "second", "-y").returncode == 0
        assert service.rows("SELECT name FROM destinations") == [("consumer",)]
        assert service.rows("SELECT count(*) FROM events") == [(4,)]


def test_a_bad_config_is_refused_and_the_service_goes_on(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    good = service.file.read_text()
    service.file.write_text(good + "surprise: 1\n")
    refused = service.run("reload")
    assert (refused.returncode, "surprise" in refused.stderr) == (2, True)
    assert service.process is not None
    service.process.send_signal(1)  # SIGHUP without the command's own look at it
    assert "surprise" in service.wait_for_log("config not reloaded: the service keeps the old one")["reason"]
    service.file.write_text(good.replace(f"port: {service.port}", "port: 1"))
    assert "can't be changed" in service.reload()
    service.file.write_text(good)
    post(service, 1, 1)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)


def test_a_port_can_t_be_changed_by_a_reload(make_service: MakeService) -> None:
    service = make_service().start()
    service.config["metrics"] = {"port": 1}
    assert "metrics.port: can't be changed while the service runs" in reload(service)
    service.stop()
    if isinstance(service.location, Path):  # in PostgreSQL nobody knows all of its services
        gone = service.run("reload")
        assert (gone.returncode, "no service is running" in gone.stderr) == (1, True)


def test_no_webhook_is_missed_by_reloads(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    stop, sent = threading.Event(), 0

    def deliver() -> None:
        nonlocal sent
        while not stop.is_set():
            post(service, 1, sent)  # asserts the 200
            sent += 1

    thread = threading.Thread(target=deliver)
    thread.start()
    for n in range(4):
        hooks = service.config["receiver"]["hooks"]
        service.config["receiver"]["hooks"] = [*hooks, {"name": f"more{n}", "token": "t"}]
        assert reload(service, to_consumer(consumer, headers={"X-N": str(n)})) == ""
    stop.set()
    thread.join()
    assert consumer.wait_for(lambda c: len(c.accepted) == sent)
    assert numbers(consumer) == list(range(sent))
    body = b'{"object_kind": "x", "project_id": 1}'
    assert service.post(body, path="/webhooks/gitlab/more3", X_Gitlab_Token="t").status_code == 200


@pytest.mark.parametrize("start", ["now", "beginning", "2026-01-01T00:00:00Z"])
def test_where_a_new_destination_starts(make_service: MakeService, consumer: Consumer, start: str) -> None:
    service = make_service().start()
    for n, at in enumerate(("2025-12-31 23:59:59 UTC", "2026-01-01 00:00:00 UTC", "2026-02-01 00:00:00 UTC")):
        note = {"object_kind": "note", "project_id": 1, "n": n, "object_attributes": {"id": n + 1, "created_at": at}}
        assert service.post(json.dumps(note).encode()).status_code == 200
    assert reload(service, to_consumer(consumer, start_from=start)) == ""
    post(service, 1, 3)
    wanted = {"now": [3], "beginning": [0, 1, 2, 3], "2026-01-01T00:00:00Z": [1, 2, 3]}[start]
    assert consumer.wait_for(lambda c: len(c.accepted) == len(wanted))
    assert sorted(numbers(consumer)) == wanted
    service.stop()
    service.start()  # it is not new any more
    post(service, 1, 4)
    assert consumer.wait_for(lambda c: len(c.accepted) == len(wanted) + 1)


def test_a_long_past_is_opened_once_however_often_it_is_killed(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service()
    filled(service.location, 6000)
    consumer.stop()
    service.config["destinations"] = [
        to_consumer(consumer, ordering="none", start_from="beginning", concurrency=32, filter={"projects": [1, 2]})
    ]
    for _ in range(4):
        service.start()
        service.kill()
    service.start()
    consumer.start()
    wanted = service.rows("SELECT count(*) FROM events WHERE project_id IN (1, 2)")[0][0]
    assert consumer.wait_for(lambda c: len({r.event_id for r in c.accepted}) == wanted, timeout_s=60)
    service.stop()
    assert service.rows("SELECT count(*) FROM deliveries") == [(wanted,)]
    assert service.rows("SELECT fill_after FROM destinations") == [(None,)]


def test_a_breaker_stays_open_over_a_restart_and_alerts_once_each(
    make_service: MakeService, consumer: Consumer
) -> None:
    with Consumer() as ops:
        consumer.answer = lambda _h, _b: (503, {}, b"")
        slow = {
            "breaker": {"failures": 3, "max_delay": "1d", "recovery_hold": "300ms"},
            "retry": {"initial_delay": "1h"},
        }
        service = make_service(destinations=[to_consumer(consumer, ordering="none", **slow), alerts_to(ops)]).start()
        for n in range(6):
            post(service, n, n)
        assert ops.wait_for(lambda c: len(said(c)) == 1)
        assert said(ops) == [("destination_down", "consumer", "opened")]
        tried = len(consumer.requests)
        assert service.rows("SELECT breaker FROM destinations WHERE name = 'consumer'") == [("open",)]
        service.kill()
        service.start()
        for n in range(6, 20):
            post(service, n, n)
        assert len(consumer.requests) == tried  # still open: nothing goes out before its pause is over
        assert "down" in service.run("status").stdout
        consumer.answer = lambda _h, _b: ACCEPTED
        assert service.run("destinations", "resume", "consumer").returncode == 0
        assert consumer.wait_for(lambda c: len(c.accepted) == 20) or len(consumer.accepted) == 20
        assert ops.wait_for(lambda c: len(said(c)) == 2)
        assert said(ops)[1:] == [("destination_down", "consumer", "over")]


def test_a_destination_that_is_gone_is_paused_and_keeps_its_events(
    make_service: MakeService, consumer: Consumer
) -> None:
    with Consumer() as ops:
        consumer.answer = lambda _h, _b: (410, {}, b"moved away")
        service = make_service(destinations=[to_consumer(consumer), alerts_to(ops)]).start()
        for n in range(5):
            post(service, 1, n)
        assert ops.wait_for(lambda c: len(said(c)) == 1)
        assert said(ops) == [("destination_gone", "consumer", "opened")]
        assert len(consumer.requests) == 1
        assert "paused (410 Gone)" in service.run("status").stdout
        consumer.answer = lambda _h, _b: ACCEPTED
        assert service.run("destinations", "resume", "consumer").returncode == 0
        assert consumer.wait_for(lambda c: len(c.accepted) == 5)
        assert numbers(consumer) == list(range(5))
        assert ops.wait_for(lambda c: len(said(c)) == 2)
        assert said(ops)[1] == ("destination_gone", "consumer", "over")


def test_dead_letters_are_told_once_shown_whole_and_sent_again(make_service: MakeService, consumer: Consumer) -> None:
    with Consumer() as ops:
        consumer.answer = lambda _h, body: (422, {}, b"I do not like it") if b'"bad"' in body else ACCEPTED
        secret = "whsec_c2VjcmV0LW9mLWEtZGVzdGluYXRpb24="
        to = to_consumer(consumer, secret=secret, headers={"Authorization": "Bearer hidden"})
        service = make_service(destinations=[to, alerts_to(ops)]).start()
        for n in range(4):
            post(service, 1, n, **({"bad": 1} if n % 2 else {}))
        assert consumer.wait_for(lambda c: len(c.requests) == 4)
        assert ops.wait_for(lambda c: len(said(c)) == 1)
        assert said(ops) == [("dead_letters", "consumer", "opened")]

        listed = [json.loads(line) for line in service.run("dead-letters", "list", "--json").stdout.splitlines()]
        assert [(one["destination"], one["attempts"], one["last_status"]) for one in listed] == [
            ("consumer", 1, 422)
        ] * 2
        first = listed[0]["id"]
        [shown] = json.loads(service.run("dead-letters", "show", str(first), "--json").stdout)
        [tried] = shown["attempts"]
        assert (tried["number"], tried["status"], tried["error_class"]) == (1, 422, "http_4xx")
        assert tried["response"] == "I do not like it"
        assert json.loads(shown["request"]["body"])["n"] == 1
        assert shown["request"]["headers"]["X-Reconciler-Attempt"] == "2"
        assert "hidden" not in json.dumps(shown)
        words = service.run("dead-letters", "show", str(first)).stdout
        assert "I do not like it" in words
        assert "hidden" not in words

        consumer.answer = lambda _h, _b: ACCEPTED
        asked = service.run("dead-letters", "replay", "--all", "--rate", "1/s", "-y")
        assert asked.returncode == 0
        assert consumer.wait_for(lambda c: len(c.accepted) == 4)
        again = [r for r in consumer.accepted if b'"bad"' in r.body]
        assert again[1].at - again[0].at > 0.7  # one a second
        assert [r.headers["x-reconciler-replay"] for r in again] == ["1", "1"]
        assert [r.headers["x-reconciler-attempt"] for r in again] == ["2", "2"]
        assert {r.event_id for r in again} == {r.event_id for r in consumer.requests if b'"bad"' in r.body}
        assert ops.wait_for(lambda c: len(said(c)) == 2)
        assert said(ops)[1] == ("dead_letters", "consumer", "over")
        assert service.run("dead-letters", "list").stdout == "No dead letter matches.\n"
        nothing = service.run("dead-letters", "replay")
        assert (nothing.returncode, "say which" in nothing.stderr) == (2, True)


def test_every_attempt_is_known(make_service: MakeService, consumer: Consumer) -> None:
    answers = iter([(500, {}, b"x" * 5000), (429, {"Retry-After": "0"}, b"")])
    consumer.answer = lambda _h, _b: next(answers, (202, {}, b"thanks"))
    service = make_service(destinations=[to_consumer(consumer)]).start()
    post(service, 1, 1)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    service.stop()
    found = service.rows("SELECT number, status, error_class, response, duration_ms FROM attempts ORDER BY id")
    assert [one[:3] for one in found] == [(1, 500, "http_5xx"), (2, 429, "http_4xx"), (3, 202, None)]
    assert found[0][3] == "x" * 1024
    assert found[2][3] == "thanks"
    assert all(0 <= one[4] < 5000 for one in found)


def test_what_a_destination_would_be_sent(make_service: MakeService, consumer: Consumer) -> None:
    template = '{"text": {{ (event.author ~ " pushed " ~ body.commits | length ~ " commits") | tojson }}}'
    chat = to_consumer(consumer, filter={"kinds": ["push"], "branches": ["main"]}, transform={"template": template})
    service = make_service().start()
    for ref, commits in (("refs/heads/main", [1, 2]), ("refs/heads/x", []), ("refs/heads/main", None)):
        body = {"object_kind": "push", "project_id": 1, "ref": ref, "user_username": "ada", "before": "a"}
        body |= {"after": str(commits)} | ({} if commits is None else {"commits": commits})
        assert service.post(json.dumps(body).encode()).status_code == 200
    service.config["destinations"] = [chat]
    service.write_config()
    tried = json.loads(service.run("destinations", "test", "consumer", "--from", "2020-01-01", "--json").stdout)
    assert [one["sent"] for one in tried] == [True, False, False]
    assert json.loads(tried[0]["request"]["body"]) == {"text": "ada pushed 2 commits"}
    assert tried[1]["why"] == "branches"
    assert "dead letter: template: " in tried[2]["why"]
    shown = service.run("destinations", "test", "consumer", "--bodies").stdout
    assert "1 of 3 would be sent." in shown
    assert "ada pushed 2 commits" in shown
    assert consumer.requests == []
    assert reload(service, chat | {"start_from": "beginning"}) == ""
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert json.loads(consumer.accepted[0].body) == {"text": "ada pushed 2 commits"}
    [dead] = [json.loads(line) for line in service.run("dead-letters", "list", "--json").stdout.splitlines()]
    assert dead["last_error"].startswith("template: ")
    assert service.rows("SELECT error_class FROM attempts WHERE error_class IS NOT NULL") == [("transform",)]


def test_ordered_by_object(make_service: MakeService, consumer: Consumer) -> None:
    """One issue that makes trouble holds up its comments, and nothing else of its project."""
    consumer.answer = lambda _h, body: (500, {}, b"") if b'"iid": 1}' in body and b"stuck" in body else ACCEPTED
    service = make_service(destinations=[to_consumer(consumer, ordering="object")]).start()

    def say(n: int, iid: int, text: str) -> None:
        body = {"object_kind": "note", "project_id": 1, "n": n, "text": text}
        body |= {"object_attributes": {"id": n + 1, "noteable_type": "Issue"}, "issue": {"iid": iid}}
        assert service.post(json.dumps(body).encode()).status_code == 200

    for n in range(12):
        say(n, n % 3, "stuck" if n == 1 else "")
    assert consumer.wait_for(lambda c: len(c.accepted) == 8)
    assert sorted(numbers(consumer)) == [n for n in range(12) if n % 3 != 1]
    consumer.answer = lambda _h, _b: ACCEPTED
    assert consumer.wait_for(lambda c: len(c.accepted) == 12)
    assert [n for n in numbers(consumer) if n % 3 == 1] == [1, 4, 7, 10]


def test_a_rate_is_kept_by_the_service(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer, ordering="none", rate_limit="20/s")]).start()
    for n in range(30):
        post(service, n, n)
    assert consumer.wait_for(lambda c: len(c.accepted) == 30)  # that it is kept: test_outbox


def test_a_kill_loses_no_alert_and_repeats_none(make_service: MakeService, consumer: Consumer) -> None:
    with Consumer() as ops:
        consumer.answer = lambda _h, body: (422, {}, b"") if b"bad" in body else (503, {}, b"")
        service = make_service(destinations=[to_consumer(consumer, ordering="none", **QUICK), alerts_to(ops)])
        for n in range(8):
            service.start()
            post(service, n, n, **({"bad": 1} if n == 3 else {}))
            consumer.wait_for(lambda c, n=n: len(c.requests) > 2 * n, timeout_s=2)  # type: ignore[misc]  # a default
            service.kill()
        service.start()
        assert ops.wait_for(
            lambda c: {json.loads(r.body)["alert"] for r in c.accepted} >= {"destination_down", "dead_letters"}
        )
        consumer.answer = lambda _h, _b: ACCEPTED
        service.run("dead-letters", "replay", "--all", "-y")
        until(lambda: service.rows("SELECT count(*) FROM alerts WHERE over_at IS NULL") == [(0,)])
        until(lambda: {state for state, *_ in states(service)} == {"delivered"})
        service.stop()
        told = {request.event_id: json.loads(request.body) for request in ops.accepted}.values()
        # The destination may have been taken for well by a probe that it refused, and for down again.
        said = service.rows("SELECT what, count(*) FROM alerts GROUP BY what ORDER BY what")
        assert [what for what, _ in said] == ["dead_letters", "destination_down"]
        assert Counter((one["alert"], one["state"]) for one in told) == {
            (what, state): count for what, count in said for state in ("opened", "over")
        }
        assert {len(consumer.accepted), service.rows("SELECT count(*) FROM events WHERE kind = 'x'")[0][0]} == {8}


def test_a_schedule_is_kept_and_then_it_is_dead(make_service: MakeService, consumer: Consumer) -> None:
    consumer.answer = lambda _h, _b: (500, {}, b"")
    to = to_consumer(consumer, retry={"schedule": ["200ms", "400ms"]}, breaker={"failures": 50})
    service = make_service(destinations=[to]).start()
    post(service, 1, 1)
    service.wait_for_log("dead letter: not delivered in time")
    first, second, third = (request.at for request in consumer.requests)
    assert second - first >= 0.18
    assert third - second >= 0.36
