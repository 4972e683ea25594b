"""TLS: a private CA, a client certificate, and a name that is checked although the address was looked up before."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from reconciler.events import times
from reconciler.forwarding.kinds.http import Http, HttpDestination
from reconciler.forwarding.message import Answer, Message


class Server:
    """Answers 200 over TLS, to those who show a certificate of the CA, where `wants_clients`."""

    def __init__(self, authority: trustme.CA, *, wants_clients: bool = False) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("inside.example").configure_cert(self.context)
        if wants_clients:
            authority.configure_trust(self.context)
            self.context.verify_mode = ssl.CERT_REQUIRED

    async def start(self) -> int:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0, ssl=self.context)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    @staticmethod
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        writer.close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(_host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", inside)


@pytest.fixture
async def port(authority: trustme.CA) -> AsyncIterator[int]:
    server = Server(authority)
    yield await server.start()
    server.server.close()


async def send(port: int, host: str, **more: Any) -> Answer:
    keys = {"name": "d", "url": f"https://{host}:{port}/x", "allow_private": ["127.0.0.0/8"], "timeout": "2s"}
    http = Http(HttpDestination.model_validate(keys | more))
    try:
        return await http.send(Message("evt_1", "1", {}, {}, b"{}", times.now()))
    finally:
        await http.close()


async def test_a_private_ca_is_trusted_where_it_is_named(port: int, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = {"ca_file": str(tmp_path / "ca.pem")}
    assert (await send(port, "inside.example", tls=tls)).accepted
    untrusted = await send(port, "inside.example")
    assert (untrusted.accepted, untrusted.error_class) == (False, "tls")
    assert "set tls.ca_file" in str(untrusted.error)


async def test_the_certificate_is_checked_against_the_name(port: int, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    answer = await send(port, "other.example", tls={"ca_file": str(tmp_path / "ca.pem")})
    assert (answer.accepted, answer.error_class) == (False, "tls")
    assert "set tls.ca_file" not in str(answer.error)  # that is not what is wrong


async def test_a_client_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    server = Server(authority, wants_clients=True)
    port = await server.start()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    mine = authority.issue_cert("me@example.com")
    mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for n, part in enumerate(mine.cert_chain_pems):
        part.write_to_path(str(tmp_path / "cert.pem"), append=n > 0)
    tls = {"ca_file": str(tmp_path / "ca.pem")}
    assert not (await send(port, "inside.example", tls=tls)).accepted
    own = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    assert (await send(port, "inside.example", tls=tls | own)).accepted
    server.server.close()


def test_files_that_are_no_good_are_a_mistake_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for path in ("ca.pem", "nothing.pem"):
        with pytest.raises(ValidationError, match=r"holds no certificates|can't be read"):
            HttpDestination.model_validate(
                {"name": "d", "url": "https://x.example", "tls": {"ca_file": str(tmp_path / path)}}
            )
