"""A web server that fails is replaced, on the same socket, while connections wait instead of being refused."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

import httpx
import pytest
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from reconciler import supervisor as module
from reconciler.service import probe
from reconciler.service.admin import serve_metrics
from reconciler.service.errors import ServiceError
from reconciler.service.web import WebServer
from reconciler.simulator.ports import free_port
from reconciler.supervisor import Supervisor
from tests.support.waiting import until

P = ParamSpec("P")


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on the service's loop. asyncio's own forgets a connection that comes just when a server closes, and
    logs without end when a listener dies.
    """

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*arguments, **named))

    return run


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(probe, "PAUSE_S", 0.02)
    monkeypatch.setattr(probe, "PATIENCE_S", 1.0)


class App:
    """Answers 200, when `go` lets it."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.asked = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/probe":
            self.asked.set()
            await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class Running:
    """A web server under a supervisor."""

    def __init__(self, port: int = 0) -> None:
        self.app = App()
        self.server = WebServer(self.app, "127.0.0.1", port, keys="admin", probe="/probe")
        self.supervisor = Supervisor(longest_pause_s=0.01, well_after_s=0.05)

    async def get(self) -> int:
        async with httpx.AsyncClient(timeout=20) as client:
            return (await client.get(self.url)).status_code

    @property
    def url(self) -> str:
        host, port = self.server.listen()
        return f"http://{host}:{port}/"

    @property
    def restarts(self) -> int:
        return self.supervisor.parts()[0].restarts

    async def restarted(self, number: int) -> None:
        """Wait until it has failed so often, and runs again."""
        await until(lambda: self.restarts >= number and any(one.started for one in self.servers()))

    def servers(self) -> list[uvicorn.Server]:
        return [one for one in self.server._servers.values() if not one.should_exit]


@asynccontextmanager
async def running(port: int = 0) -> AsyncIterator[Running]:
    one = Running(port)
    task = one.supervisor.start("web", one.server.run)
    try:
        yield one
    finally:
        await one.server.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@on_uvloop
async def test_a_server_that_ends_by_itself_is_replaced() -> None:
    async with running() as one:
        assert await one.get() == 200
        port = one.server.listen()[1]
        for number in range(1, 4):
            one.servers()[0].should_exit = True
            await one.restarted(number)
            assert await one.get() == 200
        assert one.server.listen()[1] == port


@on_uvloop
async def test_no_connection_is_refused_meanwhile() -> None:
    async with running() as one:
        assert await one.get() == 200

        async def ask(count: int) -> list[int]:
            answers: list[int] = []
            while len(answers) < count:
                try:
                    answers.append(await one.get())
                except (httpx.RemoteProtocolError, httpx.ReadError):
                    continue  # uvicorn, which ends by itself here, closed what it had not read yet
            return answers

        asking = [asyncio.create_task(ask(10)) for _ in range(4)]
        for number in range(1, 6):
            one.servers()[0].should_exit = True
            await one.restarted(number)
        assert {status for some in await asyncio.gather(*asking) for status in some} == {200}


@on_uvloop
async def test_a_server_that_raises_is_replaced_and_its_requests_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as one:
        assert await one.get() == 200
        one.app.go.clear()
        one.app.asked.clear()
        waiting = asyncio.create_task(one.get())
        await one.app.asked.wait()

        async def broken(_self: uvicorn.Server, _counter: int) -> bool:
            monkeypatch.undo()
            raise RuntimeError("no more ticks")

        monkeypatch.setattr(uvicorn.Server, "on_tick", broken)
        await one.restarted(1)
        one.app.go.set()
        assert await waiting == 200
        assert await one.get() == 200


@on_uvloop
async def test_a_socket_that_dies_is_noticed_and_replaced_on_the_same_port() -> None:
    async with running() as one:
        assert await one.get() == 200
        port = one.server.listen()[1]
        one.server._listener.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        await one.restarted(1)
        assert one.server.listen()[1] == port
        assert await one.get() == 200


@on_uvloop
async def test_a_server_that_no_longer_accepts_is_noticed() -> None:
    """As when the loop gives a listener up for want of memory: its socket listens, and nobody accepts."""
    async with running() as one:
        assert await one.get() == 200
        one.servers()[0].servers[0].close()
        one.server._listener.listen(0)  # type: ignore[union-attr]
        await one.restarted(1)
        assert await one.get() == 200


@on_uvloop
async def test_a_port_that_is_taken_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        one = Running(port)
        with pytest.raises(ServiceError, match=rf"can't listen on 127.0.0.1:{port}: .*admin.port"):
            one.server.listen()
        task = one.supervisor.start("web", one.server.run)
        await until(lambda: one.supervisor.parts() and one.restarts >= 3)
        assert "can't listen" in one.supervisor.parts()[0].error
    await one.restarted(3)
    assert await one.get() == 200
    await one.server.stop()
    task.cancel()


@on_uvloop
async def test_a_stop_waits_for_requests() -> None:
    async with running() as one:
        assert await one.get() == 200
        one.app.go.clear()
        one.app.asked.clear()
        waiting = asyncio.create_task(one.get())
        await one.app.asked.wait()
        stopping = asyncio.create_task(one.server.stop())
        await asyncio.sleep(0)
        one.app.go.set()
        assert await waiting == 200
        await stopping
        assert one.restarts == 0


@on_uvloop
async def test_the_metrics_port_is_had_again() -> None:
    port = free_port()
    supervisor = Supervisor(longest_pause_s=0.01, well_after_s=0.05)
    with socket.create_server(("127.0.0.1", port)):
        task = supervisor.start("metrics", lambda: serve_metrics("127.0.0.1", port, CollectorRegistry()))
        await until(lambda: supervisor.parts() and supervisor.parts()[0].restarts >= 2)
        assert "see metrics.port" in supervisor.parts()[0].error
    async with httpx.AsyncClient() as client:
        while True:
            try:
                assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 200
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
