"""Ledgers with many events in them, made without a service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from reconciler.events import times
from reconciler.events.sighting import Identity, Precision, Sighting, Summary
from reconciler.events.times import Millis
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.record import record
from reconciler.ledger.storage.connection import connect, transaction
from reconciler.location import Location

PROJECTS = 5


def made(count: int, *, first: int = 0, at: Millis | None = None) -> Iterator[Sighting]:
    """Comments in projects 1 to 5, one after the other."""
    now = times.now() if at is None else at
    for n in range(first, first + count):
        project = n % PROJECTS + 1
        yield Sighting(
            source="webhook:default",
            source_id=f"delivery-{n}",
            identity=Identity(f"note:{n}", Millis(now + n), Precision.UNIQUE_ID),
            summary=Summary(kind="note", project_id=project, project_path=f"group/{project}", object=f"issue/{n}"),
            seen_at=now,
            payload=f'{{"object_kind":"note","project_id":{project},"n":{n},"pad":"{"x" * 500}"}}',
            payload_sha=f"{n}",
            headers={"X-Gitlab-Event": "Note Hook", "Content-Type": "application/json"},
        )


def filled(
    path: Location, count: int, *, routes: Sequence[Route] = (), at: Millis | None = None, first: int = 0
) -> None:
    """A ledger with so many events."""
    with closing(connect(path)) as db:
        for start in range(first, first + count, 1000):
            with transaction(db):
                some = list(made(min(1000, first + count - start), first=start, at=at))
                record(db, some, now=times.now() if at is None else at, routes=routes)
