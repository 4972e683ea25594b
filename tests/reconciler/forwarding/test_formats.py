"""What goes out: GitLab's bytes, or a CloudEvent that CloudEvents' own SDK reads; signed so that others verify."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import msgspec
import pytest
from cloudevents.v1.http import from_http
from standardwebhooks import Webhook

from reconciler.events import times
from reconciler.events.fields import parsed
from reconciler.events.sighting import Summary
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kinds.http import Http, HttpDestination
from reconciler.forwarding.message import Message
from reconciler.ledger.queue.deliveries import Outgoing

SECRET = "whsec_c2VjcmV0LW9mLWEtZGVzdGluYXRpb24="
BODY = '{"object_kind": "push",  "ref":"refs/heads/m\\u00e4in", "n": 1.0}'


def formatter(**more: Any) -> Formatter:
    destination = HttpDestination.model_validate({"name": "d", "url": "https://example.com", **more})
    return Formatter(destination, event_id=lambda n: f"evt_abc_{n}", gitlab_url="https://gitlab.example.com/")


def outgoing(**summary: Any) -> Outgoing:
    about: dict[str, Any] = {
        "kind": "push",
        "project_id": 42,
        "project_path": "group/project",
        "ref": "refs/heads/main",
    }
    return Outgoing(
        event_id=7,
        happened_at="2026-11-24T10:00:00.000Z",
        source="webhook:default",
        sighting_id=9,
        recovery=None,
        headers={"X-Gitlab-Event": "Push Hook", "Content-Type": "application/json", "Idempotency-Key": "gitlab's"},
        payload=BODY,
        summary=Summary(**(about | summary)),
    )


def sent_headers(message: Message, **more: Any) -> dict[str, str]:
    """As `kind: http` sends them."""
    return Http(HttpDestination.model_validate({"name": "d", "url": "https://example.com", **more})).headers(message)


def test_webhook_is_the_same_bytes_with_a_stable_id() -> None:
    message = formatter().message(outgoing(), attempt=3, now=times.now())
    assert message.body == BODY.encode()
    assert message.headers["X-Gitlab-Event"] == "Push Hook"
    assert message.headers["webhook-id"] == message.headers["Idempotency-Key"] == "evt_abc_7"
    assert message.headers["X-Reconciler-Attempt"] == "3"


def test_cloudevents_are_read_by_their_sdk() -> None:
    message = formatter(format="cloudevents").message(outgoing(action="open"), attempt=1, now=times.now())
    event = from_http(message.headers, message.body)
    assert event["id"] == "evt_abc_7"
    assert event["source"] == "https://gitlab.example.com/group/project"
    assert event["type"] == "com.gitlab.push.open"
    assert event["time"].startswith("2026-11-24T10:00:00")
    assert event["gitlabevent"] == "Push Hook"
    assert event.data == json.loads(BODY)
    assert BODY.encode() in message.body  # the data is not written anew


def test_signatures_pass_others_checks() -> None:
    for form in ("webhook", "cloudevents"):
        message = formatter(format=form).message(outgoing(), attempt=1, now=times.now())
        Webhook(SECRET).verify(message.body, sent_headers(message, secret=SECRET), json_parse=False)


def test_configured_headers_win_whatever_their_capitals() -> None:
    message = formatter().message(outgoing(), attempt=1, now=times.now())
    sent = sent_headers(message, headers={"user-agent": "mine", "Authorization": "Bearer t"})
    assert sent["user-agent"] == "mine"
    assert "User-Agent" not in sent
    assert sent["Authorization"] == "Bearer t"


@pytest.mark.parametrize("odd", ['"\\ud800"', "1" * 30, "1" * 5000, "1e999", "[" * 400 + "]" * 400])
@pytest.mark.parametrize("transform", [{"fields": ["odd", "half"]}, {"jmespath": "{odd: body.odd, half: body.half}"}])
@pytest.mark.parametrize("how", ["webhook", "cloudevents"])
def test_whatever_is_recorded_is_transformed(how: str, transform: dict[str, Any], odd: str) -> None:
    """Beside half a surrogate pair, which the fast reader and writer don't take."""
    payload = f'{{"odd": {odd}, "half": "\\ud800"}}'
    with closing(formatter(format=how, transform=transform)) as made:
        event = msgspec.structs.replace(outgoing(), payload=payload)
        body = parsed(made.message(event, attempt=1, now=times.now()).body)
    assert (body["data"] if how == "cloudevents" else body) == parsed(payload)
