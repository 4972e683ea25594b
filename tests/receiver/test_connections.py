"""Clients that hold connections: heads and bodies that do not end, and more connections than there are files."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp

from receiver.app import receiver_app
from reconciler.config.models import HookConfig, Receiver
from reconciler.events.times import Millis
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.service.connections import Connections, protocol
from reconciler.service.receiver_counts import ReceiverCounts
from reconciler.service.web import HEAD_LIMIT_BYTES, KEEP_ALIVE, listen, web_server
from tests.conftest import PAYLOADS, MakeService
from tests.receiver.test_unauthenticated import KEY, NOBODY, shown
from tests.support.service import TOKEN, Service, until

PUSH = (PAYLOADS / "go-playground+webhooks" / "push-event.json").read_bytes()
HEAD = b"POST /webhooks/gitlab HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

CHUNKED = HEAD + b"X-Gitlab-Token: " + TOKEN.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"


def connected(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), 30)


def answer(one: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := one.recv(65536):
            got += data
    return got


def pour(one: socket.socket, start: bytes, more: bytes, most: int) -> int:
    """Send without end; how many bytes went out until the other side had enough."""
    sent = 0
    with contextlib.suppress(OSError):
        one.sendall(start)
        while sent < most:
            one.sendall(more)
            sent += len(more)
    return sent


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "one header": (HEAD + b"X-Long: ", b"x" * 8192),
    "many headers": (HEAD, b"".join(b"X-%d: x\r\n" % n for n in range(1000))),
    "the path": (b"GET /", b"x" * 8192),
    "a trailer": (
        HEAD
        + b"X-Gitlab-Token: "
        + TOKEN.encode()
        + b"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Long: ",
        b"x" * 8192,
    ),
    "a chunk's extension": (
        HEAD + b"X-Gitlab-Token: " + TOKEN.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n2;x=",
        b"x" * 8192,
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_head_that_never_ends_is_closed(make_service: MakeService, what: str) -> None:
    service = make_service().start()
    with connected(service) as one:
        sent = pour(one, *ENDLESS[what], most=64 << 20)
        got = answer(one)
    assert sent < 16 << 20  # what the sockets' buffers hold, and no more
    assert got == b"" or got.split(b"\r\n", 1)[0].split()[1] in (b"431", b"400")  # may be lost to a reset
    assert service.post(PUSH, Idempotency_Key="after").status_code == 200


def test_a_head_in_one_piece_may_not_be_larger_either(make_service: MakeService) -> None:
    service = make_service().start()
    large = "x" * (HEAD_LIMIT_BYTES - 1024)
    assert service.post(PUSH, X_Large=large).status_code == 200
    assert service.post(PUSH, X_Large=large + "x" * 1024).status_code == 431
    assert service.post(PUSH, X_Large="x" * 200_000).status_code == 431


def test_a_connection_goes_on_after_many_requests(make_service: MakeService) -> None:
    """Bytes are counted for each request anew."""
    service = make_service().start()
    head = HEAD + b"X-Gitlab-Token: " + TOKEN.encode() + b"\r\nX-Pad: " + b"x" * 1000 + b"\r\n"
    with connected(service) as one:
        for n in range(100):
            request = head + b"Idempotency-Key: n%d\r\nContent-Length: %d\r\n\r\n" % (n, len(PUSH))
            one.sendall(request[: n * 5])
            one.sendall(request[n * 5 :] + PUSH)
            assert one.recv(65536).startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def serving(
    app: Any, keep_alive: Millis = KEEP_ALIVE, **bounds: Any
) -> AsyncIterator[tuple[asyncio.Task[None], int]]:
    """The web server with other bounds, on a port of its own."""
    server = web_server(app, keep_alive=keep_alive)
    connections = Connections("test", most=bounds.pop("most", 100))
    usual: dict[str, Any] = {"head_limit": HEAD_LIMIT_BYTES, "head": Millis(60_000), "body": Millis(60_000)}
    server.config.http = protocol(connections, **usual | bounds)
    listener = listen("127.0.0.1", 0)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield task, listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, and answers."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


UNFINISHED = {
    "head": (b"POST / HTTP/1.1\r\nHost:", {"head": Millis(50)}),
    "body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", {"body": Millis(50)}),
    "chunk": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", {"body": Millis(50)}),
}


@pytest.mark.parametrize("what", UNFINISHED)
@pytest.mark.parametrize("after", ["nothing", "a whole request"])
async def test_what_does_not_come_in_time_is_closed(what: str, after: str) -> None:
    sent, bounds = UNFINISHED[what]
    async with serving(plain_app, **bounds) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if after != "nothing":
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        assert b"HTTP/1.1 408" in await reader.read()
        writer.close()


async def test_a_client_that_stops_reading_is_disconnected() -> None:
    ended = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        disconnected = asyncio.create_task(receive())
        while not disconnected.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    async with serving(endless, unread_s=0.05) as (_, port):
        with socket.create_connection(("127.0.0.1", port), 30) as one:
            one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(30):
                await ended.wait()


async def test_the_bounds_are_those_of_the_docs() -> None:
    server = web_server(plain_app)
    bounded: Any = server.config.http
    assert (bounded.head_limit, set(bounded.patience_s.values())) == (65536, {10.0, 60.0})
    assert server.config.timeout_keep_alive == KEEP_ALIVE / 1000 == 75
    assert bounded.unread_s == 60


async def test_an_idle_connection_is_kept_and_closed_in_the_end() -> None:
    async with serving(plain_app) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_too_many_connections_close_the_oldest_that_asks_nothing() -> None:
    working, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            working.set()
            await go_on.wait()
        await plain_app(scope, receive, send)

    async with serving(app, most=3) as (_, port):
        slow = await asyncio.open_connection("127.0.0.1", port)
        slow[1].write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await working.wait()
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in held:
            writer.write(b"POST / HTTP/1.1\r\nHos")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)  # one too many
        assert await held[0][0].read() == b""
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        go_on.set()
        assert b"200 OK" in await slow[0].readuntil(b"\r\n\r\n")
        for _, end in (*held, slow, (reader, writer)):
            end.close()


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[ASGIApp]:
    """The real app, whose hook takes a token or a signature."""
    hook = HookConfig(name="default", token=SecretStr("hook-token"), signing_token=SecretStr(KEY))
    config = Receiver.model_validate({"hooks": [hook]})
    intake = SqliteAppender(tmp_path / "ledger.db.intake")
    yield receiver_app(config, intake=intake, observer=ReceiverCounts())
    await intake.close()


UNREAD = b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(PUSH)
"""The end of a head whose body is still to come. The answer to `Expect` says that the body is waited for."""
AUTHENTICATED = HEAD + b"X-Gitlab-Token: hook-token\r\n" + UNREAD


def forged_head() -> bytes:
    """A head whose signature has the right form, and is of now: an old one is refused at once."""
    return HEAD + b"".join(b"%s: %s\r\n" % header for header in shown(b"v1," + NOBODY)) + UNREAD


async def asking(port: int, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose head was read, and found in order as far as it goes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_a_request_neither_authenticated_nor_complete_gives_way(receiver: ASGIApp) -> None:
    """A signature may be right, but authenticates nobody before the body is there."""
    async with serving(receiver, most=4) as (_, port):
        authenticated = await asking(port, AUTHENTICATED)
        forged = [await asking(port, forged_head()) for _ in range(3)]
        deliveries = [authenticated]
        for unauthenticated, _ in forged:
            deliveries.append(await asking(port, AUTHENTICATED))
            assert await unauthenticated.read() == b""  # the oldest of them
        for reader, writer in deliveries:
            writer.write(PUSH)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        for _, end in (*forged, *deliveries):
            end.close()


async def test_each_that_comes_finds_another_to_give_way() -> None:
    """However many come at once."""
    async with serving(plain_app, most=3) as (_, port):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        come = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(3)))
        for reader, _ in held:
            assert await reader.read() == b""
        for reader, writer in come:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        for _, end in (*held, *come):
            end.close()


IDLE = {
    "nothing": b"",
    "a blank line": b"\r\n",
    "the rest of a body that was answered": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.parametrize("what", IDLE)
async def test_what_begins_no_request_keeps_no_connection_open(what: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app, keep_alive=Millis(1000)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(IDLE[what])
        if len(IDLE[what]) > 2:
            assert b"401" in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"{}")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can take a running process's files away")
def test_no_file_descriptor_left_is_said_and_passes(make_service: MakeService) -> None:
    service = make_service().start()
    assert service.process is not None
    assert service.post(PUSH, Idempotency_Key="before").status_code == 200
    usual = resource.prlimit(service.pid_of("receiver"), resource.RLIMIT_NOFILE)
    resource.prlimit(service.pid_of("receiver"), resource.RLIMIT_NOFILE, (40, usual[1]))
    clients = []
    for _ in range(60):
        with contextlib.suppress(OSError):
            clients.append(connected(service))
    said = service.wait_for_log("no file descriptors left: connections are dropped")
    assert (said["level"], said["server"]) == ("warning", "receiver")
    for one in clients:
        one.close()
    until(lambda: _taken(service))
    resource.prlimit(service.pid_of("receiver"), resource.RLIMIT_NOFILE, usual)
    assert service.stop() == 0


def _taken(service: Service) -> bool:
    try:
        return service.post(PUSH, Idempotency_Key="after").status_code == 200
    except httpx.TransportError:
        return False


def test_unauthenticated_clients_do_not_fill_the_log(make_service: MakeService) -> None:
    service = make_service().start()
    for _ in range(50):
        with connected(service) as one:
            one.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * (HEAD_LIMIT_BYTES + 1))
            answer(one)
    said = [line for line in service.logs if "head too large" in line["event"]]
    assert 1 <= len(said) < 10


def test_unauthenticated_clients_do_not_hold_up_genuine_deliveries(make_service: MakeService) -> None:
    """As many half-open requests as there may be connections: a delivery comes in all the same."""
    service = make_service().start()
    assert service.process is not None
    clients = []
    for _ in range(300):
        one = connected(service)
        one.sendall(HEAD)
        clients.append(one)
    assert service.post(PUSH, Idempotency_Key="between").status_code == 200
    for one in clients:
        one.close()
