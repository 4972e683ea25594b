"""A server whose answers a test writes byte by byte, and a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """`async with RawServer() as server:` keeps each request's head and body, and answers with `answer`.

    `answer` writes to the connection and may close it. `closed` is set when the client closed a connection.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.answer: Answering = ok
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.closed = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/x"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                self.requests.append((head, await reader.readexactly(int(size[1]) if size else 0)))
                self.arrived.set()
                await self.answer(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            self.closed.set()
        except asyncio.CancelledError:  # the test is over
            pass
        finally:
            self._open.discard(task)
            await shut(writer)


async def ok(_head: bytes, writer: asyncio.StreamWriter) -> None:
    """Take the request and keep the connection."""
    writer.write(OK)


def says(answer: bytes, *, then_close: bool = False) -> Answering:
    """Give this answer."""

    async def say(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if then_close:
            writer.close()

    return say


def tunnel(to: int) -> Answering:
    """Answer a CONNECT as a proxy does, by passing everything on to a port of this machine."""

    async def connect(_head: bytes, writer: asyncio.StreamWriter) -> None:
        reader: asyncio.StreamReader = writer.transport.get_protocol()._stream_reader  # type: ignore[attr-defined]
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    return connect


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    await shut(writer)


async def shut(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever state it is in."""
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
        async with asyncio.timeout(2):
            await writer.wait_closed()
