"""New events for open browsers (server-sent events)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from starlette.concurrency import run_in_threadpool

from reconciler.ledger.errors import LedgerError
from reconciler.ledger.storage.connection import explain, look_at
from reconciler.ledger.views.browse import Filter, after
from reconciler.location import Location

CHECK_INTERVAL_S = 0.5
ALIVE_EVERY = 30
"""Looks between two keep-alive lines, which stop proxies from closing a quiet stream."""
MOST_LISTENERS = 50
EVENTS_A_LOOK = 20
"""The most events sent at once; the rest are on the events page."""

log = structlog.get_logger(__name__)

Row = Callable[[Any], str]
"""A row of a table, as HTML."""


class Stream:
    """The streams of all listeners. `stop` ends them, so that the service can stop. `trouble` returns why the file at
    the ledger's path must not be shown, if so.
    """

    def __init__(self, path: Location, trouble: Callable[[], str | None] = lambda: None) -> None:
        self._path = path
        self._trouble = trouble
        self._listeners = 0
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """End every stream."""
        self._stopped.set()

    async def lines(self, last: int, row: Row, trouble_row: Row) -> AsyncIterator[str]:
        """The stream of one listener: each event after `last` as a table row, oldest first, or a row with the error
        if the ledger can't be read.
        """
        if self._listeners >= MOST_LISTENERS:
            yield "retry: 60000\n\n"
            return
        self._listeners += 1
        looks = 0
        trouble = ""
        try:
            yield "retry: 2000\n\n"
            while not self._stopped.is_set():
                before, trouble, found = trouble, "", []
                try:
                    found = await run_in_threadpool(self._after, last)
                except (LedgerError, sqlite3.Error) as error:
                    trouble = explain(error) if isinstance(error, sqlite3.Error) else str(error)
                if trouble and trouble != before:
                    log.error("event stream interrupted", reason=trouble)
                    yield _server_sent_event(trouble_row(trouble))
                for event in found:
                    last = event["id"]
                    yield f"id: {last}\n{_server_sent_event(row(event))}"
                looks += 1
                if looks % ALIVE_EVERY == 0:
                    yield ": alive\n\n"
                try:
                    await asyncio.wait_for(self._stopped.wait(), CHECK_INTERVAL_S)
                except TimeoutError:
                    continue
        finally:
            self._listeners -= 1

    def _after(self, last: int) -> list[dict[str, Any]]:
        with look_at(self._path, self._trouble) as db:
            return after(db, Filter(), event_id=last, limit=EVENTS_A_LOOK)


def _server_sent_event(html: str) -> str:
    """A row as a server-sent event."""
    text = str(html).encode("utf-8", "replace").decode()
    data = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: event\n{data}\n"
