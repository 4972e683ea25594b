"""A ledger with its intake and a recorder between them, as long as its process lives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from reconciler.events import times
from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.times import Millis
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.intake.reader import SqliteReader
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.destinations import DestinationSpec
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql
from reconciler.location import Location
from reconciler.recorder.reading import WebhookReader
from reconciler.recorder.recorder import Recorder

NOW = times.from_iso("2026-11-24T12:00:00.000Z")
EVERYTHING = Route(1, "none", lambda _: True)
_NO_SYNC = Sql("PRAGMA synchronous = OFF", postgresql="SET synchronous_commit = off")


def webhook(n: object, *, at: int = 0, headers: dict[str, str] | None = None, **more: Any) -> ReceivedWebhook:
    """Without an id of GitLab's: whoever records it twice makes two events of it."""
    body = {"object_kind": "issue", "object_attributes": {"id": 1, "action": "update", "title": f"{n}"}} | more
    return ReceivedWebhook("default", Millis(NOW + at), headers or {}, json.dumps(body).encode())


class Place(NamedTuple):
    """Where a ledger is, and the path of its intake's file."""

    ledger: Location
    intake: Path


def place_of(at: Path | Place) -> Place:
    """A path is that of a ledger's file."""
    return Place(at, intake_path(at)) if isinstance(at, Path) else at


def make(at: Path | Place) -> None:
    """A ledger with one destination, for which each event opens a delivery."""
    with closing(connect(place_of(at).ledger)) as db, transaction(db):
        destinations.sync(db, [DestinationSpec("one", "none")], now=NOW)


async def append(at: Path | Place, *webhooks: ReceivedWebhook) -> None:
    intake = SqliteAppender(place_of(at).intake)
    try:
        for one in webhooks:
            await intake.append(one)
    finally:
        await intake.close()


class Life:
    """A process that records."""

    def __init__(self, db: Database, reader: Database, intake: Path, expected: ExpectedTests) -> None:
        self.db, self.reader = db, reader
        self.ledger = Ledger(Writer(db, routes=[EVERYTHING]), reader)
        webhooks = WebhookReader(self.ledger.coverage.project_ids(), expected)
        self.recorder = Recorder(partial(SqliteReader, intake), ledger=self.ledger, reader=webhooks)
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
async def life(at: Path | Place, expected: ExpectedTests | None = None) -> AsyncIterator[Life]:
    """Begin recording. At the end, whatever is not on disk is gone."""
    ledger, intake = place_of(at)
    with closing(connect(ledger)) as db, closing(connect(ledger, readonly=True)) as reader:
        db.execute(_NO_SYNC)  # processes are killed here, not machines
        made = Life(db, reader, intake, ExpectedTests() if expected is None else expected)
        try:
            yield made
        finally:
            await made.kill()


async def record_all(at: Path | Place) -> None:
    """Start, record everything, stop."""
    async with life(at) as made:
        await made.recorded()


def rows(at: Path | Place, sql: str) -> list[Any]:
    with closing(connect(place_of(at).ledger, readonly=True)) as db:
        return db.execute(sql).fetchall()


def titles(at: Path | Place) -> list[str]:
    """The titles of the events, in the order in which they go to the destination."""
    sql = "SELECT s.payload FROM deliveries d JOIN sightings s ON s.event_id = d.event_id ORDER BY d.event_id, s.id"
    return [json.loads(payload)["object_attributes"]["title"] for (payload,) in rows(at, sql)]


def kept(at: Path | Place) -> list[tuple[str, str, int]]:
    """The titles, errors and tries of what could not be recorded."""
    found = rows(at, "SELECT body, error, tries FROM unrecorded ORDER BY id")
    return [
        (json.loads(body)["object_attributes"]["title"] if body else "", error, tries) for body, error, tries in found
    ]


def poison(at: Path | Place, title: str = "poison") -> None:
    """Let the ledger refuse one webhook, as a CHECK does that forgot something."""
    _refuse(at, "sightings", f"NEW.payload LIKE '%\"{title}\"%'", "poisoned")


def no_room(at: Path | Place) -> None:
    """Let the ledger refuse to keep what could not be recorded."""
    _refuse(at, "unrecorded", "true", "no room")


def _refuse(at: Path | Place, table: str, when: str, why: str) -> None:
    name = why.replace(" ", "_")
    sql = Sql(
        f"CREATE TRIGGER {name} BEFORE INSERT ON {table} WHEN {when} BEGIN SELECT RAISE(ABORT, '{why}'); END",
        postgresql=f"""
        CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{why}'; END $$;
        CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {name}()
        """,
    )
    with closing(connect(place_of(at).ledger)) as db:
        db.execute(sql)


def antidote(at: Path | Place) -> None:
    with closing(connect(place_of(at).ledger)) as db:
        db.execute(Sql("DROP TRIGGER poisoned", postgresql="DROP FUNCTION poisoned CASCADE"))


def numbered(texts: Sequence[object]) -> list[ReceivedWebhook]:
    return [webhook(text, at=n) for n, text in enumerate(texts)]
