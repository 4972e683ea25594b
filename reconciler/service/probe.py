"""Whether a port of ours answers: a listening socket can die, or be closed, without its server's noticing."""

from __future__ import annotations

import asyncio
import errno

PAUSE_S = 2.0
PATIENCE_S = 10.0
SILENCES = 3
"""A busy service may be slow to answer once; so many times in a row it does not answer."""

_CANT_ASK = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
"""It is we who have no file, memory or port left to ask with."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask for what listens everywhere


class NoAnswer(Exception):
    """The port does not answer."""


async def watch_answers(host: str, port: int, *, path: str) -> None:
    """Ask a port again and again; raises NoAnswer when it does not answer."""
    silences = 0
    while True:
        await asyncio.sleep(PAUSE_S)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await _ask(_EVERYWHERE.get(host, host), port, path)
            silences = 0
        except ConnectionRefusedError:
            raise NoAnswer(f"nobody listens on port {port} any more") from None
        except OSError as error:  # a time-out among them
            silences += error.errno not in _CANT_ASK
        if silences >= SILENCES:
            raise NoAnswer(f"port {port} does not answer")


async def _ask(host: str, port: int, path: str) -> None:
    """One request over a connection of its own; any answer will do. Raises OSError where there is none."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        if not await reader.read(1):
            raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
    finally:
        writer.close()
