"""Checks that one of our ports answers: a listening socket can be closed without its server noticing."""

from __future__ import annotations

import asyncio
import errno

PAUSE_S = 2.0
PATIENCE_S = 10.0
SILENCES = 3
"""How many times in a row a port may fail to answer. A busy service may be slow once."""

_CANT_ASK = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
"""Errors of the probe itself: no file, memory or port left to ask with."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to probe a wildcard address


class NoAnswer(Exception):
    """The port does not answer."""


async def watch_answers(host: str, port: int, *, path: str) -> None:
    """Probe a port repeatedly. Raises NoAnswer when it stops answering."""
    silences = 0
    while True:
        await asyncio.sleep(PAUSE_S)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await _ask(_EVERYWHERE.get(host, host), port, path)
            silences = 0
        except ConnectionRefusedError:
            raise NoAnswer(f"nothing listens on port {port} any more") from None
        except OSError as error:  # including timeouts
            silences += error.errno not in _CANT_ASK
        if silences >= SILENCES:
            raise NoAnswer(f"port {port} does not answer")


async def _ask(host: str, port: int, path: str) -> None:
    """Send one request on a new connection. Any answer is fine. Raises OSError if there is none."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        if not await reader.read(1):
            raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
    finally:
        writer.close()
