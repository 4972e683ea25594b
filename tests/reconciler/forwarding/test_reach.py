"""Whether a destination can be reached: by TCP, by TLS, with nothing sent; and what is said where it can't."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.forwarding.reach import Unreachable
from reconciler.simulator.ports import free_port


async def check(**keys: Any) -> str:
    model = find_kind(keys.get("kind", "http"))
    destination: Destination = model.config.model_validate({"name": "d"} | keys)
    kind = model(destination)
    try:
        found: str = await kind.check()
        return found
    finally:
        await kind.close()


class Listener:
    """Takes connections, and keeps what it is sent until they end."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.got: asyncio.Queue[bytes] = asyncio.Queue()

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got.put_nowait(await reader.read())
        writer.close()


async def test_a_port_that_takes_connections_is_sent_nothing() -> None:
    async with Listener() as there:
        found = await check(url=f"http://127.0.0.1:{there.port}/x", allow_private=True)
        assert found == f"127.0.0.1:{there.port} accepts connections"
        assert await there.got.get() == b""


async def test_tls_is_spoken_and_nothing_is_sent_in_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with Listener(context) as there:
        keys = {"url": f"https://localhost:{there.port}/x", "allow_private": True}
        found = await check(**keys, tls={"ca_file": str(tmp_path / "ca.pem")})
        assert found == f"localhost:{there.port} accepts connections, its certificate is valid"
        assert await there.got.get() == b""
        with pytest.raises(Unreachable, match=r"certificate is not trusted: .*`tls.ca_file` names a private CA"):
            await check(**keys)
        keys["url"] = f"https://127.0.0.1:{there.port}/x"
        with pytest.raises(Unreachable, match=r"not trusted: IP address mismatch") as refused:
            await check(**keys, tls={"ca_file": str(tmp_path / "ca.pem")})
        assert "[SSL" not in str(refused.value)


async def test_a_server_without_tls(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    with pytest.raises(Unreachable, match="does not speak TLS"):
        await check(url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", allow_private=True)
    server.close()


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "http://127.0.0.1:{}/", "allow_private": True},
        {"url": "https://127.0.0.1:{}/", "allow_private": True},
        {"url": "https://example.com/", "proxy": "http://u:p@127.0.0.1:{}"},
        {"kind": "nats", "servers": ["127.0.0.1:{}"]},
        {"kind": "nats", "servers": ["tls://u:p@127.0.0.1:{}"]},
        {"kind": "kafka", "servers": ["127.0.0.1:{}"]},
        {"kind": "mqtt", "url": "mqtt://u:p@127.0.0.1:{}"},
        {"kind": "redis", "url": "redis://:p@127.0.0.1:{}/0"},
        {"kind": "rabbitmq", "url": "amqp://u:p@127.0.0.1:{}/"},
        {"kind": "sql", "url": "mysql://u:p@127.0.0.1:{}/d"},
    ],
    ids=lambda keys: f"{keys.get('kind', 'http')} {len(str(keys))}",
)
async def test_a_closed_port_is_told_alike_by_every_kind(keys: dict[str, Any]) -> None:
    port = free_port()
    made = {name: value.replace("{}", str(port)) if isinstance(value, str) else value for name, value in keys.items()}
    if "servers" in made:
        made["servers"] = [server.replace("{}", str(port)) for server in made["servers"]]
    with pytest.raises(Unreachable) as refused:
        await check(**made)
    assert str(refused.value) == f"127.0.0.1:{port}: nothing listens there (connection refused)"


async def test_the_ports_that_are_meant_where_none_is_named() -> None:
    for keys, port in (
        ({"kind": "nats", "servers": ["h", "tls://h", "ws://h"]}, [4222, 4222, 80]),
        ({"kind": "kafka", "servers": ["h"]}, [9092]),
        ({"kind": "mqtt", "url": "mqtt://h"}, [1883]),
        ({"kind": "mqtt", "url": "mqtts://h"}, [8883]),
        ({"kind": "redis", "url": "rediss://h"}, [6379]),
        ({"kind": "redis", "url": "unix:///run/redis.sock"}, []),
        ({"kind": "rabbitmq", "url": "amqp://h"}, [5672]),
        ({"kind": "rabbitmq", "url": "amqps://h"}, [5671]),
        ({"kind": "sql", "url": "postgresql://h/d"}, [5432]),
        ({"kind": "sql", "url": "mariadb://h/d"}, [3306]),
        ({"kind": "sql", "url": "sqlite:///d"}, []),
    ):
        model = find_kind(str(keys["kind"]))
        assert [found for _, found in model(model.config.model_validate({"name": "d"} | keys)).endpoints] == port
