"""The parts of the running service (dashboard, alerting, polling, …) that have failed, for status and alerts."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.storage.database import Database


class Part(msgspec.Struct, frozen=True):
    """A part that has failed since the service started. `failing_since` is None if it runs again."""

    name: str
    failing_since: Millis | None
    restarts: int
    error: str


def note_parts(db: Database, found: Iterable[Part]) -> None:
    """Replace the list of parts that have failed."""
    db.execute("DELETE FROM parts")
    db.executemany(
        "INSERT INTO parts (name, failing_since, restarts, error) VALUES (?, ?, ?, ?)",
        [(one.name, None if one.failing_since is None else times.iso(one.failing_since), one.restarts, one.error)
         for one in found],
    )  # fmt: skip


def failing(db: Database) -> list[Part]:
    """The parts that fail now, by name: of the running service, or of the last one, if it was killed."""
    rows = db.execute(
        "SELECT name, failing_since, restarts, error FROM parts WHERE failing_since IS NOT NULL ORDER BY name"
    )
    return [Part(name, times.from_iso(since), restarts, error) for name, since, restarts, error in rows]
