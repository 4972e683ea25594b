"""The running service's parts (dashboard, alerting, polling, …) that have failed, for who looks from outside."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.times import Millis


class Part(msgspec.Struct, frozen=True):
    """A part that has failed since the service started. `failing_since`: None where it runs again."""

    name: str
    failing_since: Millis | None
    restarts: int
    error: str


def note_parts(db: Database, found: Iterable[Part]) -> None:
    """Make these the parts that have failed."""
    db.conn.execute("DELETE FROM parts")
    db.conn.executemany(
        "INSERT INTO parts (name, failing_since, restarts, error) VALUES (?, ?, ?, ?)",
        [(one.name, None if one.failing_since is None else times.iso(one.failing_since), one.restarts, one.error)
         for one in found],
    )  # fmt: skip


def failing(db: Database) -> list[Part]:
    """The parts that fail now, by name: those of the service that runs, or that was killed last."""
    rows = db.conn.execute(
        "SELECT name, failing_since, restarts, error FROM parts WHERE failing_since IS NOT NULL ORDER BY name"
    )
    return [Part(name, times.from_iso(since), restarts, error) for name, since, restarts, error in rows]
