"""A ledger with its intake and a recorder between them, as long as its process lives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from reconciler.events import times
from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.times import Millis
from reconciler.ledger.intake import places
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.location import Location
from reconciler.recorder.reading import WebhookReader
from reconciler.recorder.recorder import Recorder

NOW = times.from_iso("2026-11-24T12:00:00.000Z")
EVERYTHING = Route(1, "none", lambda _: True)


def webhook(n: object, *, at: int = 0, headers: dict[str, str] | None = None, **more: Any) -> ReceivedWebhook:
    """Without an id of GitLab's: whoever records it twice makes two events of it."""
    body = {"object_kind": "issue", "object_attributes": {"id": 1, "action": "update", "title": f"{n}"}} | more
    return ReceivedWebhook("default", Millis(NOW + at), headers or {}, json.dumps(body).encode())


def make(path: Location) -> None:
    """A ledger with one destination, for which each event opens a delivery."""
    with closing(connect(path)) as db, transaction(db):
        destinations.sync(db, [DestinationSpec("one", "none")], now=NOW)


async def append(path: Location, *webhooks: ReceivedWebhook) -> None:
    intake = places.appender(path)
    try:
        for one in webhooks:
            await intake.append(one)
    finally:
        await intake.close()


class Life:
    """A process that records."""

    def __init__(self, db: Database, reader: Database, path: Location, expected: ExpectedTests) -> None:
        self.db, self.reader = db, reader
        self.ledger = Ledger(Writer(db, routes=[EVERYTHING]), reader)
        webhooks = WebhookReader(self.ledger.coverage.project_ids(), expected)
        self.recorder = Recorder(places.opener(path), ledger=self.ledger, reader=webhooks)
        self.running = asyncio.create_task(self.recorder.run())

    async def recorded(self) -> None:
        """Wait until everything is recorded, or the recorder fails."""
        drained = asyncio.create_task(self.recorder.drain(60))
        await asyncio.wait({drained, self.running}, return_when=asyncio.FIRST_COMPLETED)
        if self.running.done():
            drained.cancel()
            self.running.result()

    async def kill(self) -> None:
        """End it between two statements."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


@asynccontextmanager
async def life(path: Location, expected: ExpectedTests | None = None) -> AsyncIterator[Life]:
    """Begin recording. At the end, whatever is not on disk is gone."""
    with closing(connect(path)) as db, closing(connect(path, readonly=True)) as reader:
        if isinstance(path, Path):
            db.execute("PRAGMA synchronous = OFF")  # processes are killed here, not machines
        made = Life(db, reader, path, ExpectedTests() if expected is None else expected)
        try:
            yield made
        finally:
            await made.kill()


async def record_all(path: Location) -> None:
    """Start, record everything, stop."""
    async with life(path) as made:
        await made.recorded()


def rows(path: Location, sql: str) -> list[Any]:
    with closing(connect(path, readonly=True)) as db:
        return db.execute(sql).fetchall()


def titles(path: Location) -> list[str]:
    """The titles of the events, in the order in which they go to the destination."""
    sql = "SELECT s.payload FROM deliveries d JOIN sightings s ON s.event_id = d.event_id ORDER BY d.event_id, s.id"
    return [json.loads(payload)["object_attributes"]["title"] for (payload,) in rows(path, sql)]


def kept(path: Location) -> list[tuple[str, str, int]]:
    """The titles, errors and tries of what could not be recorded."""
    found = rows(path, "SELECT body, error, tries FROM unrecorded ORDER BY id")
    return [
        (json.loads(body)["object_attributes"]["title"] if body else "", error, tries) for body, error, tries in found
    ]


def poison(path: Path, title: str = "poison") -> None:
    """Let the ledger refuse one webhook, as a CHECK does that forgot something."""
    with closing(connect(path)) as db:
        db.execute(
            f"CREATE TRIGGER poison BEFORE INSERT ON sightings WHEN NEW.payload LIKE '%\"{title}\"%' "
            "BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
        )


def antidote(path: Path) -> None:
    with closing(connect(path)) as db:
        db.execute("DROP TRIGGER poison")


def numbered(texts: Sequence[object]) -> list[ReceivedWebhook]:
    return [webhook(text, at=n) for n, text in enumerate(texts)]
