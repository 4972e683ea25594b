"""Events to fill a ledger with."""

from __future__ import annotations

import random
from collections.abc import Iterator

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.ledger.queue.destinations import DestinationSpec, sync
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql
from reconciler.location import Location

PROJECTS = 50


def sightings(count: int, *, seed: int, payload_bytes: int = 4096) -> Iterator[Sighting]:
    """Push webhooks with keys and delivery ids as random as SHAs and UUIDs are."""
    dice = random.Random(seed)
    pad = "x" * max(0, payload_bytes - 120)
    now = times.now()
    for number in range(count):
        project = number % PROJECTS + 1
        sha = f"{dice.getrandbits(160):040x}"
        ident = f"{dice.getrandbits(128):032x}"
        yield Sighting(
            source="webhook:default",
            source_id=f"{ident[:8]}-{ident[8:12]}-{ident[12:16]}-{ident[16:20]}-{ident[20:]}",
            identity=Identity(f"push:{project}:refs/heads/main:{sha[::-1]}:{sha}", now, Precision.RECEIVED_TIME),
            summary=Summary(kind="push", project_id=project, project_path=f"group/{project}", author="ada"),
            seen_at=now,
            payload=f'{{"object_kind":"push","n":{number},"after":"{sha}","pad":"{pad}"}}',
            payload_sha=sha,
            headers={"X-Gitlab-Event": "Push Hook", "Content-Type": "application/json"},
        )


def fill(db: Database, found: Iterator[Sighting], *, batch: int = 500) -> None:
    """Record without waiting for the disk."""
    db.execute(Sql("PRAGMA synchronous = OFF", postgresql="SET synchronous_commit = off"))
    routes = everything(db)
    while part := [s for s, _ in zip(found, range(batch), strict=False)]:
        with transaction(db):
            record(db, part, now=times.now(), routes=routes)
    db.execute(Sql("PRAGMA synchronous = FULL", postgresql="SET synchronous_commit = on"))


def everything(db: Database) -> list[Route]:
    """Routes that send every event to every destination."""
    found = db.execute("SELECT id, ordering FROM destinations").fetchall()
    return [Route(ident, ordering, lambda _: True) for ident, ordering in found]


def ledger(path: Location, *destinations: str, ordering: str = "project") -> Database:
    """A new ledger with these destinations."""
    db = connect(path)
    with transaction(db):
        sync(db, [DestinationSpec(name, ordering) for name in destinations], now=times.now())
    return db
