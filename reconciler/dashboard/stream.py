"""New events for open browsers (server-sent events)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from reconciler.api.stream import BEGIN, FULL, Listeners
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views.browse import Filter, after
from reconciler.ledger.views.news import News

EVENTS_A_LOOK = 20
"""The most events sent at once; the rest are on the events page."""

Row = Callable[[Any], str]
"""A row of a table, as HTML."""


class Stream(Listeners):
    """The streams of all listeners, of the dashboard and of the API."""

    async def lines(self, last: int, row: Row, trouble_row: Row) -> AsyncIterator[str]:
        """The stream of one browser: each event after `last` as a table row, oldest first, or a row with the error
        if the ledger can't be read.
        """
        if self.is_full:
            yield FULL
            return
        yield BEGIN + "\n"
        async with aclosing(self.follow(last, _look)) as told:
            async for one in told:
                if one is None:
                    yield ": alive\n\n"
                elif isinstance(one, str):
                    yield _server_sent_event(trouble_row(one))
                else:
                    for event in one.events:
                        yield f"id: {event['id']}\n{_server_sent_event(row(event))}"


def _look(db: Database, last: int) -> News:
    found = after(db, Filter(), event_id=last, limit=EVENTS_A_LOOK)
    return News(found, found[-1]["id"] if found else last)


def _server_sent_event(html: str) -> str:
    """A row as a server-sent event."""
    text = str(html).encode("utf-8", "replace").decode()
    data = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: event\n{data}\n"
