"""Batches over HTTP: one request with several events, in the formats that such endpoints take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cloudevents.v1.http import from_http
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks import Webhook

from reconciler.events import times
from reconciler.forwarding.http_batch import BatchFormat, batched
from reconciler.forwarding.kind import attempt
from reconciler.forwarding.kinds.http import Http, HttpDestination
from reconciler.forwarding.message import DeliveryRejected, Message
from reconciler.forwarding.rendering import rendered
from tests.support.raw_http import RawServer, says

SECRET = "whsec_c2VjcmV0LW9mLWEtZGVzdGluYXRpb24="


def message(number: int, body: bytes, **headers: str) -> Message:
    own = {"Content-Type": "application/json", "User-Agent": "us", "X-Gitlab-Event": "Push Hook", "webhook-id": "1"}
    return Message(f"evt_{number}", "1", {}, own | headers, body, times.now())


def destination(url: str = "http://127.0.0.1:1/x", **keys: Any) -> HttpDestination:
    return HttpDestination.model_validate({"name": "d", "url": url, "allow_private": True, "batch": {}, **keys})


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer() as running:
        yield running


def head_of(request: tuple[bytes, bytes]) -> dict[str, str]:
    lines = request[0].decode().split("\r\n")[1:-2]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


async def sent(server: RawServer, messages: list[Message], **keys: Any) -> tuple[dict[str, str], bytes]:
    http = Http(destination(server.url, **keys))
    answers = await http.send_batch(messages)
    await http.close()
    assert len(answers) == len(messages)
    assert all(answer.accepted for answer in answers)
    [request] = server.requests
    return head_of(request), request[1]


class TestFormats:
    async def test_a_json_array(self, server: RawServer) -> None:
        messages = [message(1, b'{"n": 1}'), message(2, b"[\n2]")]
        head, body = await sent(server, messages)
        assert body == b'[{"n": 1},[\n2]]'
        assert head["content-type"] == "application/json"

    async def test_lines_of_json(self, server: RawServer) -> None:
        messages = [message(1, b'{"n":\r\n 1}'), message(2, b'"\\n"')]
        head, body = await sent(server, messages, batch={"format": "ndjson"})
        assert body == b'{"n":   1}\n"\\n"\n'
        assert head["content-type"] == "application/x-ndjson"

    async def test_cloud_events_as_their_own_library_reads_them(self, server: RawServer) -> None:
        events = [
            {
                "specversion": "1.0",
                "id": f"evt_{n}",
                "source": "https://x/a",
                "type": "com.gitlab.push",
                "data": {"n": n},
            }
            for n in range(3)
        ]
        messages = [message(n, json.dumps(event).encode()) for n, event in enumerate(events)]
        head, body = await sent(server, messages, format="cloudevents")
        assert head["content-type"] == "application/cloudevents-batch+json; charset=utf-8"
        for n, event in enumerate(json.loads(body)):
            read = from_http({"content-type": "application/cloudevents+json"}, json.dumps(event).encode())
            assert (read["id"], read.data) == (f"evt_{n}", {"n": n})

    @pytest.mark.long
    @given(
        st.lists(
            st.recursive(
                st.none() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
            ),
            min_size=1,
        ),
        st.sampled_from([None, 2]),
    )
    def test_any_values_arrive_as_they_are_and_in_order(self, values: list[Any], indent: int | None) -> None:
        messages = [message(n, json.dumps(value, indent=indent).encode()) for n, value in enumerate(values)]
        assert json.loads(batched(messages, "json", unchecked=False).body) == values
        lines = batched(messages, "ndjson", unchecked=False).body.split(b"\n")
        assert lines.pop() == b""
        assert [json.loads(line) for line in lines] == values


class TestHeaders:
    async def test_those_of_one_event_are_not_sent(self, server: RawServer) -> None:
        messages = [message(1, b"{}", **{"Idempotency-Key": "evt_1", "X-Reconciler-Attempt": "3"}), message(2, b"{}")]
        head, _ = await sent(server, messages, headers={"Authorization": "Bearer x"})
        assert head.keys() == {
            *("host", "accept", "accept-encoding", "connection", "content-length", "content-type", "user-agent"),
            *("idempotency-key", "webhook-id", "webhook-timestamp", "x-reconciler-batch", "authorization"),
        }
        assert head["webhook-id"] == head["idempotency-key"] != "evt_1"
        assert (head["x-reconciler-batch"], head["user-agent"]) == ("2", "us")

    async def test_the_signature_is_the_batch_s(self, server: RawServer) -> None:
        head, body = await sent(server, [message(1, b'{"n":1}'), message(2, b'{"n":2}')], secret=SECRET)
        assert Webhook(SECRET).verify(body, head) == [{"n": 1}, {"n": 2}]

    def test_the_id_is_the_same_for_the_same_events_only(self) -> None:
        def batch_id(*numbers: int) -> str:
            return batched([message(n, b"{}") for n in numbers], "json", unchecked=False).id

        assert batch_id(1, 2) == batch_id(1, 2)
        assert len({batch_id(1, 2), batch_id(2, 1), batch_id(1), batch_id(12), batch_id(1, 2, 3)}) == 5


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "error_class", "rejected"),
        [(b"413 Too Large", "http_4xx", True), (b"503 Busy", "http_5xx", False)],
    )
    async def test_each_gets_the_one_that_came(
        self, server: RawServer, status: bytes, error_class: str, rejected: bool
    ) -> None:
        server.answer = says(b"HTTP/1.1 %s\r\nContent-Length: 3\r\n\r\nwhy" % status)
        http = Http(destination(server.url))
        answers = await http.send_batch([message(n, b"{}") for n in range(3)])
        assert len(answers) == 3
        assert {(one.error_class, one.rejected, one.response) for one in answers} == {(error_class, rejected, "why")}
        await http.close()

    async def test_one_event_alone_goes_out_as_a_batch_of_one(self, server: RawServer) -> None:
        http = Http(destination(server.url))
        await asyncio.gather(http.send(message(1, b"{}", **{"X-Reconciler-Test": "true"})))
        assert server.requests[0][1] == b"[{}]"
        assert head_of(server.requests[0])["x-reconciler-test"] == "true"
        shown = http.as_sent(message(1, b"{}"))
        assert (shown.body, shown.headers["X-Reconciler-Batch"]) == (b"[{}]", "1")
        await http.close()

    @pytest.mark.parametrize("wanted", ["json", "ndjson"])
    async def test_a_template_s_result_that_is_not_json_is_refused_before_it_is_sent(
        self, server: RawServer, wanted: BatchFormat
    ) -> None:
        keys = {"transform": {"template": "{{ body }}"}, "batch": {"format": wanted}}
        http = Http(destination(server.url, **keys))
        bad = message(2, b"not JSON")
        with pytest.raises(DeliveryRejected, match="not JSON"):
            await http.send_batch([message(1, b"{}"), bad])
        assert (await attempt(http, bad, timeout_s=10)).rejected
        assert "not JSON" in str(rendered(http, bad).error)
        assert server.requests == []
        await http.close()


class TestConfig:
    @pytest.mark.parametrize(
        ("keys", "where", "what"),
        [
            ({"batch": {"format": "cloudevents"}}, "batch.format", "needs `format: cloudevents`"),
            (
                {"transform": {"template": "x", "content_type": "text/plain"}},
                "transform.content_type",
                "a batch is JSON",
            ),
            ({"batch": {"format": "csv"}}, "batch.format", "cloudevents"),
            ({"batch": {"max": 1}}, "batch.max", "greater than or equal to 2"),
            ({"batch": {"size": 3}}, "batch.size", "not permitted"),
        ],
    )
    def test_what_can_t_work_is_refused(self, keys: dict[str, Any], where: str, what: str) -> None:
        with pytest.raises(ValidationError) as refused:
            destination(**keys)
        assert where in str(refused.value)
        assert what in str(refused.value)

    def test_the_format_follows_the_destination_s(self) -> None:
        for wanted, keys in (("cloudevents", {"format": "cloudevents"}), ("json", {})):
            shown = Http(destination(**keys)).as_sent(message(1, b"{}"))
            assert wanted in shown.headers["Content-Type"]

    @pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/vnd.x+json"])
    def test_templates_of_json_are_fine(self, content_type: str) -> None:
        destination(transform={"template": "{}", "content_type": content_type})
