"""Which addresses may be connected to, and that a name can't change its mind in between."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.events import times
from reconciler.forwarding.addresses import may_connect
from reconciler.forwarding.kinds.http import Http, HttpDestination
from reconciler.forwarding.message import Answer, Message
from reconciler.simulator.consumer import Consumer

PRIVATE = (
    "0.0.0.0 0.255.255.255 10.0.0.0 10.1.2.3 10.255.255.255 100.64.0.0 100.64.0.1 100.127.255.255 "
    "127.0.0.0 127.0.0.1 127.8.9.1 127.255.255.255 169.254.0.0 169.254.169.254 169.254.255.255 172.16.0.0 "
    "172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.255 192.0.2.0 "
    "192.0.2.255 192.88.99.0 192.88.99.1 192.88.99.255 192.168.0.0 192.168.255.255 198.18.0.0 "
    "198.19.255.255 198.51.100.0 203.0.113.255 224.0.0.1 239.255.255.255 240.0.0.0 255.255.255.255 :: ::1 "
    "::2 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 "
    "::ffff:0:8.8.8.8 64:ff9b::a9fe:a9fe 64:ff9b::7f00:1 64:ff9b:1:: 64:ff9b:1::8.8.8.8 "
    "64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100:: 100::1 100:0:0:1::1 200::1 400::1 1000::1 "
    "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:: 2001::1 2001:0:4136:e378:8000::1 2001:1::1 2001:2::1 "
    "2001:10::1 2001:20::1 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8:: 2001:db8::1 "
    "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 2002:7f00:1:: 2002:a00:1::1 2002:c058:6301:: 3fff:: "
    "3fff:fff::1 4000:: 5f00:: 5f00:ffff::1 8000::1 fc00::1 fd00:ec2::254 fe80::1 febf::1 fec0:: fec0::1 "
    "feff::1 ff00::1 ff02::1 ffff::1 2606:4700::5efe:10.0.0.1 2606:4700::5efe:7f00:1 "
    "2606:4700::200:5efe:169.254.169.254 2606:4700::100:5efe:10.0.0.1 fe80::5efe:8.8.8.8"
).split()
PUBLIC = (
    "1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 "
    "169.253.0.1 169.255.0.1 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.88.98.255 "
    "192.88.100.0 192.167.0.1 192.169.0.1 198.17.255.255 198.20.0.0 198.51.99.1 203.0.112.1 "
    "223.255.255.255 2000:: 2001:200::1 2001:4860:4860::8888 2001:db7::1 2001:db9::1 2002:808:808::1 "
    "2606:4700:4700::1111 2a00:1450:4001::1 3ffe::1 3fff:1000:: 3fff:ffff::1 ::ffff:8.8.8.8 "
    "64:ff9b::808:808 2606:4700::5efe:8.8.8.8"
).split()


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_public_are_refused(text: str) -> None:
    assert not may_connect(ipaddress.ip_address(text), [])


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_not(text: str) -> None:
    assert may_connect(ipaddress.ip_address(text), [])


@given(st.ip_addresses())
def test_what_is_allowed_is_what_is_in_the_network(address: Any) -> None:
    network = ipaddress.ip_network("10.0.0.0/8")
    if address in network:
        assert may_connect(address, [network])
    elif address.version == 4:
        assert may_connect(address, [network]) == may_connect(address, [])


def destination(**more: Any) -> HttpDestination:
    return HttpDestination.model_validate({"name": "d", "timeout": "2s", **more})


async def send(to: HttpDestination) -> Answer:
    message = Message("evt_1", "1", {}, {"Content-Type": "application/json"}, b"{}", times.now())
    http = Http(to)
    try:
        return await http.send(message)
    finally:
        await http.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "x.localhost"])
def test_a_private_address_in_the_config_is_a_mistake_at_once(host: str) -> None:
    with pytest.raises(ValidationError, match="allow_private"):
        destination(url=f"http://{host}/x")
    destination(url=f"http://{host}/x", allow_private=True)


class Names:
    """A resolver whose answers can change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.answers = list(answers)
        self.asked = 0
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, _host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked += 1
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        family = socket.AF_INET6 if ":" in answer else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (answer, port))]


@pytest.mark.parametrize("inside", ["127.0.0.1", "10.0.0.7", "::1", "169.254.169.254"])
async def test_a_name_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    names = Names(monkeypatch, inside)
    answer = await send(destination(url="http://innocent.example/x"))
    assert answer.error_class == "address"
    assert inside in (answer.error or "")
    assert names.asked == 1


async def test_rebinding_gains_nothing(monkeypatch: pytest.MonkeyPatch, consumer: Consumer) -> None:
    """The name is public when it is checked and leads inside when asked again: nobody asks again."""
    names = Names(monkeypatch, "192.0.2.1", "127.0.0.1")
    monkeypatch.setattr("reconciler.forwarding.addresses.may_connect", lambda a, _: str(a) == "192.0.2.1")
    to = destination(url=f"http://innocent.example:{consumer.port}/x", timeout="300ms")
    answer = await send(to)
    assert names.asked == 1
    assert not answer.accepted
    assert consumer.requests == []


async def test_an_allowed_network_is_reached_under_the_host_s_name(
    monkeypatch: pytest.MonkeyPatch, consumer: Consumer
) -> None:
    Names(monkeypatch, "127.0.0.1")
    to = destination(url=f"http://inside.example:{consumer.port}/x", allow_private=["127.0.0.0/8"])
    assert (await send(to)).accepted
    assert consumer.requests[0].headers["host"] == f"inside.example:{consumer.port}"
    refused = destination(url=f"http://inside.example:{consumer.port}/x", allow_private=["10.0.0.0/8"])
    assert (await send(refused)).error_class == "address"


async def test_a_host_s_second_address_is_tried(monkeypatch: pytest.MonkeyPatch, consumer: Consumer) -> None:
    def both(_host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        inet = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*inet, ("127.0.0.9", port)), (*inet, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    to = destination(url=f"http://inside.example:{consumer.port}/x", allow_private=["127.0.0.0/8"])
    assert (await send(to)).accepted


async def test_redirects_are_followed_only_when_told_and_only_where_the_body_goes_too(consumer: Consumer) -> None:
    with Consumer() as other:
        for status, follow, taken in ((307, True, True), (308, True, True), (307, False, False), (302, True, False)):
            consumer.answer = lambda _h, _b, status=status: (status, {"Location": other.url}, b"")  # type: ignore[misc]  # a default
            before = len(other.requests)
            to = destination(url=consumer.url, allow_private=True, follow_redirects=follow, headers={"X-Secret": "s"})
            assert (await send(to)).accepted is taken
            assert len(other.requests) - before == int(taken)
        assert all(request.body == b"{}" for request in other.requests)
        assert not any("x-secret" in request.headers for request in other.requests)


async def test_a_redirect_inside_is_refused_like_any_address(
    monkeypatch: pytest.MonkeyPatch, consumer: Consumer
) -> None:
    Names(monkeypatch, "127.0.0.1", "10.0.0.1")
    consumer.answer = lambda _h, _b: (307, {"Location": "http://inner.example/admin"}, b"")
    to = destination(
        url=f"http://outer.example:{consumer.port}/x", allow_private=["127.0.0.0/8"], follow_redirects=True
    )
    assert (await send(to)).error_class == "address"


async def test_a_loop_of_redirects_ends(consumer: Consumer) -> None:
    consumer.answer = lambda _h, _b: (307, {"Location": consumer.url}, b"")
    answer = await send(destination(url=consumer.url, allow_private=True, follow_redirects=True))
    assert answer.status == 307
    assert len(consumer.requests) == 6


async def test_the_environment_s_proxy_is_not_taken(monkeypatch: pytest.MonkeyPatch, consumer: Consumer) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert (await send(destination(url=consumer.url, allow_private=True))).accepted


async def test_a_configured_proxy_is(consumer: Consumer) -> None:
    to = destination(url="http://far.example/path", proxy=f"http://user:pass@127.0.0.1:{consumer.port}")
    assert (await send(to)).accepted
    [request] = consumer.requests
    assert request.headers["host"] == "far.example"
    assert request.headers["proxy-authorization"].startswith("Basic ")


async def test_only_the_beginning_of_an_answer_is_read_and_kept() -> None:
    sent = 0

    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 500 No\r\nContent-Type: text/plain\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    answer = await send(destination(url=f"http://127.0.0.1:{port}/x", allow_private=True))
    assert answer.status == 500
    assert answer.response == "x" * 1024
    assert sent < 32 * 2**20
    server.close()
