"""The connections of HTTP destinations: what goes over them, when they are used again, and what breaks them."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from reconciler.events import times
from reconciler.forwarding.kind import attempt
from reconciler.forwarding.kinds.http import READ_BYTES, Http, HttpDestination
from reconciler.forwarding.message import Answer, Message
from tests.support.raw_http import OK, RawServer, says, tunnel


def message(body: bytes = b"{}", **headers: str) -> Message:
    return Message("evt_1", "1", {}, {"Content-Type": "application/json", **headers}, body, times.now())


def client(url: str, **keys: Any) -> Http:
    return Http(HttpDestination.model_validate({"name": "d", "url": url, "allow_private": True, **keys}))


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer() as running:
        yield running


@pytest.fixture
async def http(server: RawServer) -> AsyncIterator[Http]:
    made = client(server.url)
    yield made
    await made.close()


class TestConnections:
    async def test_one_is_used_again(self, server: RawServer, http: Http) -> None:
        for _ in range(5):
            assert (await http.send(message())).accepted
        assert (server.connections, len(server.requests)) == (1, 5)

    async def test_there_are_as_many_as_may_be_in_flight(self, server: RawServer) -> None:
        http = client(server.url, concurrency=3)
        answers = await asyncio.gather(*(http.send(message()) for _ in range(20)))
        assert all(answer.accepted for answer in answers)
        assert server.connections <= 3
        await http.close()

    async def test_one_that_the_server_closed_is_no_failed_attempt(self, server: RawServer, http: Http) -> None:
        server.answer = says(OK, then_close=True)
        for _ in range(5):
            assert (await http.send(message())).accepted
        assert len(server.requests) == 5

    async def test_what_got_no_answer_is_not_sent_again_by_itself(self, server: RawServer, http: Http) -> None:
        assert (await http.send(message())).accepted  # the next one goes over a used connection
        server.answer = says(b"", then_close=True)
        answer = await http.send(message())
        assert (answer.error_class, answer.rejected) == ("connection", False)
        assert "without an answer" in str(answer.error)
        assert len(server.requests) == 2

    async def test_closing_closes_them(self, monkeypatch: pytest.MonkeyPatch, server: RawServer) -> None:
        monkeypatch.setattr("reconciler.forwarding.transport.IDLE_S", 600)  # or it would be closed by itself
        http = client(server.url)
        assert (await http.send(message())).accepted
        assert not server.closed.is_set()
        await http.close()
        await asyncio.wait_for(server.closed.wait(), 10)

    async def test_one_with_an_attempt_that_took_too_long_is_closed(self, server: RawServer, http: Http) -> None:
        server.answer = says(b"")
        assert (await attempt(http, message(), timeout_s=0.2)).error_class == "timeout"
        await asyncio.wait_for(server.closed.wait(), 10)
        server.answer = says(OK)
        assert (await http.send(message())).accepted

    async def test_cancelling_closes_it(self, server: RawServer, http: Http) -> None:
        server.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        sending = asyncio.create_task(http.send(message()))
        await asyncio.wait_for(server.arrived.wait(), 10)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.wait_for(server.closed.wait(), 10)

    @pytest.mark.parametrize(
        "part", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
    )
    async def test_a_server_that_stops_talking(self, server: RawServer, part: bytes) -> None:
        server.answer = says(part)
        http = client(server.url, timeout="200ms")
        answer = await http.send(message())
        assert (answer.error_class, answer.error) == ("timeout", "no answer within 0.2 s")
        await http.close()

    async def test_of_a_long_answer_the_rest_is_not_read_and_its_connection_not_used_again(
        self, server: RawServer, http: Http
    ) -> None:
        size = 64 * READ_BYTES
        server.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        answer = await http.send(message())
        assert (answer.accepted, answer.response) == (True, "x" * 1024)
        server.answer = says(OK)
        assert (await http.send(message())).response == "ok"
        assert server.connections == 2


class TestAnswers:
    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 30_000 + b"\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: a=b\r\n" * 300 + b"Content-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 \xff\xe9\r\nX-Odd: \xff\xe9\r\nContent-Length: 2\r\n\r\nok",
        ],
        ids=["after interim answers", "chunked", "no reason", "a long header", "many headers", "odd bytes"],
    )
    async def test_all_that_is_http_counts(self, server: RawServer, http: Http, answer: bytes) -> None:
        server.answer = says(answer)
        got = await http.send(message())
        assert (got.accepted, got.status, got.response) == (True, 200, "ok")
        assert (await http.send(message())).accepted
        assert server.connections == 1

    async def test_one_without_a_length_ends_with_its_connection(self, server: RawServer, http: Http) -> None:
        server.answer = says(b"HTTP/1.0 503 Busy\r\nRetry-After: 7\r\n\r\nlater", then_close=True)
        answer = await http.send(message())
        assert (answer.error_class, answer.error, answer.retry_after) == ("http_5xx", "HTTP 503 Busy: later", 7000)

    @pytest.mark.parametrize(
        "answer",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x15\x03\x01\x00\x02\x02\x16",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
            b"HTTP/1.1 2",
        ],
        ids=["another protocol", "a TLS alert", "cut off", "broken chunks", "cut off in its head"],
    )
    async def test_what_is_not_is_a_failed_attempt(self, server: RawServer, http: Http, answer: bytes) -> None:
        server.answer = says(answer, then_close=True)
        got = await attempt(http, message(), timeout_s=10)
        assert (got.error_class, got.rejected) == ("connection", False)
        assert got.error

    async def test_a_port_where_nothing_listens(self, server: RawServer) -> None:
        async with RawServer() as gone:
            pass
        http = client(gone.url)
        answer = await http.send(message())
        assert answer.error_class == "connection"
        assert "Connect call failed" in str(answer.error)
        await http.close()


class TestRequests:
    async def test_its_head_has_what_we_say_and_nothing_else(self, server: RawServer) -> None:
        http = client(server.url + "/a%20b?q=%C3%A9#part", headers={"X-Team": "blue", "Accept": "text/plain"})
        came = "gé…".encode().decode("latin-1")
        await http.send(message(b"{ }", **{"X-Gitlab-Instance": came, "webhook-id": "evt_1"}))
        [(head, body)] = server.requests
        assert body == b"{ }"
        assert sorted(head.split(b"\r\n")) == sorted(
            [
                b"POST /x/a%20b?q=%C3%A9 HTTP/1.1",
                b"Host: 127.0.0.1:%d" % server.port,
                b"Accept: text/plain",
                b"Accept-Encoding: identity",
                b"Connection: keep-alive",
                b"Content-Length: 3",
                b"Content-Type: application/json",
                b"X-Gitlab-Instance: " + "gé…".encode(),
                b"webhook-id: evt_1",
                b"X-Team: blue",
                b"",
                b"",
            ]
        )
        await http.close()

    async def test_bytes_that_are_not_utf_8_go_out_as_utf_8(self, server: RawServer, http: Http) -> None:
        await http.send(message(b"{}", **{"X-Odd": "\xe9"}))
        assert b"X-Odd: \xc3\xa9\r\n" in server.requests[0][0]

    async def test_cookies_are_not_kept(self, server: RawServer, http: Http) -> None:
        server.answer = says(b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1\r\nContent-Length: 0\r\n\r\n")
        for _ in range(2):
            await http.send(message())
        assert not any(b"Cookie" in head for head, _ in server.requests)

    async def test_the_url_s_user_and_password_are_a_header(self, server: RawServer) -> None:
        http = client(server.url.replace("//", "//user:pa%20ss@"))
        await http.send(message())
        [(head, _)] = server.requests
        assert b"\r\nAuthorization: Basic " + base64.b64encode(b"user:pa ss") + b"\r\n" in head
        assert b"@" not in head
        await http.close()

    async def test_they_are_not_for_another_host(self, server: RawServer, http: Http) -> None:
        async with RawServer() as other:
            server.answer = says(
                b"HTTP/1.1 307 Onward\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % other.url.encode()
            )
            keys = {"follow_redirects": True, "headers": {"X-Secret": "s", "Host": "inner"}}
            http = client(server.url.replace("//", "//user:password@"), **keys)
            assert (await http.send(message())).accepted
            [(head, body)] = other.requests
            assert body == b"{}"
            assert b"X-Secret" not in head
            assert b"Authorization" not in head
            assert b"Host: 127.0.0.1:%d\r\n" % other.port in head
            await http.close()

    @pytest.mark.filterwarnings("error::ResourceWarning")
    async def test_a_large_body_goes_out_whole(self, server: RawServer, http: Http) -> None:
        body = bytes(range(256)) * (20 << 10)
        assert (await http.send(message(body))).accepted
        assert server.requests[0][1] == body

    @pytest.mark.parametrize("onward", ["http://10.0.0.1/", "http://[::1]:9/", "http://0x0a000001/"])
    async def test_an_address_in_a_redirect_is_checked(self, server: RawServer, onward: str) -> None:
        server.answer = says(b"HTTP/1.1 308 Onward\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % onward.encode())
        http = client(server.url, allow_private=["127.0.0.0/8"], follow_redirects=True)
        answer = await http.send(message())
        assert answer.error_class == "address"
        assert "not public" in str(answer.error)
        await http.close()

    @pytest.mark.parametrize("onward", ["ftp://127.0.0.1/", "http://[", "http://a:b/", "http://10.1/", "mailto:a@b"])
    async def test_a_redirect_to_nowhere(self, server: RawServer, onward: str) -> None:
        server.answer = says(b"HTTP/1.1 307 Onward\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % onward.encode())
        http = client(server.url, follow_redirects=True)
        assert (await attempt(http, message(), timeout_s=10)).error_class == "connection"
        await http.close()


class Authority:
    """A private CA, and what clients and servers need of it."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.tls = {"ca_file": str(folder / "ca.pem")}

    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert("127.0.0.1").configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine with each of the event loops that a service may have."""

    def on_its_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main)

    return on_its_loop


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("target_tls", [False, True], ids=["http target", "https target"])
def test_through_a_proxy(run: Any, authority: Authority, proxy_tls: bool, target_tls: bool) -> None:
    async def main() -> None:
        async with (
            RawServer(tls=authority.server() if proxy_tls else None) as proxy,
            RawServer(tls=authority.server() if target_tls else None) as target,
        ):
            if target_tls:
                proxy.answer = tunnel(target.port)
            http = client(
                f"http{'s' * target_tls}://127.0.0.1:{target.port}/x",
                proxy=f"http{'s' * proxy_tls}://user:password@127.0.0.1:{proxy.port}",
                tls=authority.tls,
            )
            for _ in range(3):
                answer = await http.send(message())
                assert answer.accepted, answer
            await http.close()
            login = b"\r\nProxy-Authorization: Basic " + base64.b64encode(b"user:password") + b"\r\n"
            assert all(login in head for head, _ in proxy.requests)
            if target_tls:
                assert [head.split(b"\r\n")[0] for head, _ in proxy.requests] == [
                    b"CONNECT 127.0.0.1:%d HTTP/1.1" % target.port
                ]
                assert len(target.requests) == 3
                assert not any(b"Proxy-Authorization" in head for head, _ in target.requests)
            else:
                start = b"POST http://127.0.0.1:%d/x HTTP/1.1\r\n" % target.port
                assert [head.startswith(start) for head, _ in proxy.requests] == [True] * 3

    run(main())


class TestTroubleWithAProxy:
    async def send(self, url: str, proxy: RawServer, **keys: Any) -> Answer:
        http = client(url, proxy=f"http://user:pass-word@127.0.0.1:{proxy.port}", **keys)
        try:
            return await attempt(http, message(), timeout_s=10)
        finally:
            await http.close()

    async def test_it_refuses_us(self, server: RawServer) -> None:
        server.answer = says(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
        answer = await self.send("https://far.example/x", server)
        assert answer.error_class == "connection"
        assert "the proxy answered 407 Who are you" in str(answer.error)
        assert "pass-word" not in str(answer.error)

    async def test_it_is_not_there(self) -> None:
        async with RawServer() as gone:
            pass
        answer = await self.send("https://far.example/x", gone)
        assert answer.error_class == "connection"
        assert "the proxy can't be reached" in str(answer.error)
        assert "pass-word" not in str(answer.error)

    async def test_the_target_s_certificate_is_checked_behind_it(
        self, server: RawServer, authority: Authority
    ) -> None:
        async with RawServer(tls=authority.server()) as target:
            server.answer = tunnel(target.port)
            strange = await self.send(f"https://127.0.0.1:{target.port}/x", server)
            assert (strange.accepted, strange.error_class) == (False, "tls")
            wrong = await self.send(f"https://other.example:{target.port}/x", server, tls=authority.tls)
            assert (wrong.accepted, wrong.error_class) == (False, "tls")
            assert target.requests == []
