"""HTTP destinations: answers that would become large, headers that can't be sent, and what is never said of them."""

from __future__ import annotations

import gzip
import zlib
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.events import times
from reconciler.forwarding.kind import attempt
from reconciler.forwarding.kinds.http import READ_BYTES, Http, HttpDestination
from reconciler.forwarding.message import EXCERPT_BYTES, Answer, Message
from reconciler.simulator.consumer import ACCEPTED, Consumer
from tests.conftest import MakeService, to_consumer
from tests.support.scripted import Scripted
from tests.support.service import TOKEN, until


@cache
def bomb() -> bytes:
    """Two hundred MiB, compressed until little is left."""
    return gzip.compress(gzip.compress(gzip.compress(b"\x00" * (200 << 20))))


def message(**headers: str) -> Message:
    return Message("evt_1", "1", {}, {"Content-Type": "application/json", **headers}, b"{}", times.now())


async def tried(url: str, what: Message | None = None, **keys: Any) -> Answer:
    made = HttpDestination.model_validate({"name": "d", "url": url, "allow_private": True, **keys})
    http = Http(made)
    try:
        return await attempt(http, what or message(), timeout_s=10)
    finally:
        await http.close()


class TestAnswers:
    @pytest.mark.parametrize("coding", ["gzip, gzip, gzip", "gzip", "deflate", "br", "x" * 1000])
    @pytest.mark.parametrize("status", [200, 500])
    async def test_nothing_is_unpacked(self, coding: str, status: int) -> None:
        assert len(bomb()) < 4096
        with Scripted(lambda _: (status, bomb()), {"Content-Encoding": coding}) as server:
            answer = await tried(server.url)
        assert answer.status == status
        assert answer.accepted == (status == 200)
        assert len(answer.response or "") < 100
        assert "compressed" in (answer.response or "")

    async def test_it_asks_for_plain_ones(self, consumer: Consumer) -> None:
        await tried(consumer.url)
        assert consumer.requests[0].headers["accept-encoding"] == "identity"

    async def test_of_an_endless_one_little_is_read(self) -> None:
        with Scripted(lambda _: (500, zlib.crc32(b"x").to_bytes(4) * (8 << 20))) as server:
            answer = await tried(server.url)
        assert len((answer.response or "").encode()) <= 3 * EXCERPT_BYTES  # of bytes that are no text
        assert READ_BYTES == 64 * 1024


class TestHeaders:
    async def test_they_go_out_as_they_came(self, consumer: Consumer) -> None:
        """The receiver reads headers as Latin-1: UTF-8 in them looks odd, and is UTF-8 again on the way out."""
        came = "https://gé…".encode().decode("latin-1")
        assert (await tried(consumer.url, message(**{"X-Gitlab-Instance": came}))).accepted
        assert consumer.requests[0].headers["x-gitlab-instance"].encode("latin-1") == "https://gé…".encode()
        assert (await tried(consumer.url, message(**{"X-Gitlab-Instance": "漢"}))).accepted

    @pytest.mark.parametrize("value", ["a\nb", "a\r\nX-Other: 1", "a\x00b"])
    async def test_one_that_can_t_be_sent_is_a_dead_letter_at_once(self, consumer: Consumer, value: str) -> None:
        answer = await tried(consumer.url, message(**{"X-Gitlab-Instance": value}))
        assert (answer.rejected, answer.error_class) == (True, "rejected")
        assert "can't be sent" in (answer.error or "")
        assert consumer.requests == []

    async def test_a_host_that_is_none_is_a_dead_letter_at_once(self) -> None:
        odd = HttpDestination.model_construct(
            **{**HttpDestination(name="d", url="https://example.com").__dict__, "url": "http://[::1"}
        )
        http = Http(odd)
        assert (await attempt(http, message(), timeout_s=5)).rejected
        await http.close()

    @pytest.mark.parametrize("value", ["Müller", "s3\nb", " s3", "s3 ", "\u202e", "s3\x00"])
    def test_the_config_refuses_what_can_t_be_sent_and_does_not_show_it(self, value: str) -> None:
        with pytest.raises(ValidationError, match="can't be sent in a header") as refused:
            HttpDestination.model_validate({"name": "d", "url": "https://h", "headers": {"X-Team": value}})
        assert value.strip() not in str([one["msg"] for one in refused.value.errors()])

    @pytest.mark.parametrize("name", ["Ü", "a b", "a:b", "", "a\n"])
    def test_nor_names(self, name: str) -> None:
        with pytest.raises(ValidationError):
            HttpDestination.model_validate({"name": "d", "url": "https://h", "headers": {name: "x"}})

    def test_it_does_not_hold_its_project_up(self, make_service: MakeService, consumer: Consumer) -> None:
        service = make_service(destinations=[to_consumer(consumer)]).start()
        body = b'{"object_kind":"push","project_id":1,"n":%d}'
        odd = "https://gé…".encode()
        posted = {b"Content-Type": b"application/json", b"X-Gitlab-Token": TOKEN.encode(), b"X-Gitlab-Instance": odd}
        taken = service._gitlab.post(service.url + "/webhooks/gitlab", content=body % 1, headers=posted)
        assert taken.status_code == 200
        assert service.post(body % 2).status_code == 200
        assert consumer.wait_for(lambda c: len(c.accepted) == 2)
        assert consumer.accepted[0].headers["x-gitlab-instance"].encode("latin-1") == odd
        consumer.answer = lambda _h, _b: ACCEPTED
        until(lambda: service.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'") == [(2,)])


ADDRESSES = {
    "https://hooks.example/services/T0/B0/" + 4 * "XXXX1X": "https://hooks.example/services/T0/B0/…",
    "https://chat.example/hooks/9xxn3yg8qtdf8ptcsnyqc3i4ph/x": "https://chat.example/hooks/…/x",
    "https://user:pw@x.example/gitlab/v2/events?sig=a": "https://x.example/gitlab/v2/events",
    "https://x.example/a-long-name-of-an-endpoint": "https://x.example/a-long-name-of-an-endpoint",
}


class TestSecrets:
    def test_nobody_sees_them_in_a_config(self) -> None:
        made = HttpDestination.model_validate(
            {
                "name": "d",
                "url": "https://user:pass-word@host/hook?token=t0ken&a=1",
                "headers": {"Authorization": "header-secret"},
                "secret": "whsec_c2lnbmluZy1rZXk=",
                "proxy": "http://proxy-user:proxy-password@proxy:3128",
            }
        )
        for shown in (repr(made), str(made), Http(made).address):
            for secret in ("pass-word", "t0ken", "header-secret", "c2lnbmluZy1rZXk", "proxy-password"):
                assert secret not in shown

    @pytest.mark.parametrize("url", ADDRESSES)
    def test_an_address_shows_none_of_its_path(self, url: str) -> None:
        made = HttpDestination.model_validate({"name": "d", "url": url})
        assert Http(made).address == ADDRESSES[url]

    async def test_nor_in_an_answer(self) -> None:
        quoted = "no, amqp://user:pass-word@broker told me: https://h/?access_token=t0ken"
        with Scripted(lambda _: (500, quoted.encode())) as server:
            answer = await tried(server.url)
        assert "pass-word" not in f"{answer.error}"
        assert "t0ken" not in f"{answer.error}"
