"""Connections to PostgreSQL for the event loop. A server that does not answer in time is given up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection, OperationalError

from reconciler.ledger.storage.conninfo import conninfo
from reconciler.location import PostgresUrl

ANSWER_S = 10.0
"""A server that has not answered by then may be stopped, though its machine answers."""


async def connect(url: PostgresUrl, **more: str) -> AsyncConnection[Any]:
    """Connect. Each statement is a transaction of its own. Raises psycopg.Error."""
    # Without prepared statements, which a pooler in between may not have.
    return await AsyncConnection.connect(conninfo(url.value, **more), autocommit=True, prepare_threshold=None)


async def answer(conn: AsyncConnection[Any], sql: str, parameters: Sequence[Any] | None = None) -> list[Any]:
    """The rows that a statement returns. Raises psycopg.Error, also if the server does not answer.

    To cancel the statement could take as long again, so the connection is cut.
    """

    async def run() -> list[Any]:
        cursor = await conn.execute(sql, parameters)
        return [] if cursor.description is None else await cursor.fetchall()

    running = asyncio.ensure_future(run())
    try:
        done, _ = await asyncio.wait([running], timeout=ANSWER_S)
    except asyncio.CancelledError:
        _cut(conn)
        running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise
    if not done:
        _cut(conn)
        await asyncio.wait([running])
        running.exception()
        raise OperationalError(f"the server has not answered within {ANSWER_S:.0f} s")
    return running.result()


def _cut(conn: AsyncConnection[Any]) -> None:
    """End a connection, so that whoever waits for it gets an error at once."""
    with contextlib.suppress(OSError, OperationalError), socket.socket(fileno=os.dup(conn.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
