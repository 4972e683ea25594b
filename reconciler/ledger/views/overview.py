"""The dashboard's overview, with queries whose cost does not grow with the ledger."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec

from reconciler.events import times
from reconciler.events.times import HOUR, Millis
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql, filled_in

ATTEMPTS_LOOKED_AT = 2000
HOURS = filled_in(
    """
    SELECT e.project_id, substr(e.happened_at, 1, 13), s.recovery IS NOT NULL, count(*)
      FROM {} sightings s ON s.id = e.sighting_id
     WHERE e.happened_at >= ? AND e.project_id IS NOT NULL AND e.merged_into IS NULL GROUP BY 1, 2, 3
    """,
    Sql("events e INDEXED BY events_by_time CROSS JOIN", postgresql="events e JOIN"),
)
ATTEMPTS = """
    SELECT destination_id, error_class IS NULL, duration_ms + 0 FROM attempts WHERE id > 0 ORDER BY id DESC LIMIT ?
"""
RUNS = """
    SELECT r.id, r.project_id, p.path, r.source, r.purpose, r.window_from, r.window_through, r.started_at,
           r.finished_at, r.seen + 0 AS seen, r.known + 0 AS known, r.new + 0 AS new, r.requests + 0 AS requests,
           r.error
      FROM runs r LEFT JOIN projects p ON p.id = r.project_id WHERE r.id < ? ORDER BY r.id DESC LIMIT ?
"""


class Hour(msgspec.Struct):
    """How many events happened in an hour, by how they were reported."""

    webhook: int = 0
    recovered: int = 0


class DeliveryRecord(msgspec.Struct):
    """A destination's results among the newest attempts of all. Durations are in milliseconds."""

    attempts: int = 0
    accepted: int = 0
    median: int = 0
    p95: int = 0

    @property
    def rate(self) -> float | None:
        """The share of attempts that were accepted; None if there were none."""
        return self.accepted / self.attempts if self.attempts else None


def hours(db: Database, *, since: Millis) -> dict[int, dict[Millis, Hour]]:
    """Events by project and the hour in which they happened."""
    found: dict[int, dict[Millis, Hour]] = defaultdict(lambda: defaultdict(Hour))
    for project, hour, recovered, count in db.execute(HOURS, (times.iso(Millis(since // HOUR * HOUR)),)):
        one = found[project][times.from_iso(f"{hour}:00:00.000Z")]
        if recovered:
            one.recovered += count
        else:
            one.webhook += count
    return found


def records(db: Database) -> dict[int, DeliveryRecord]:
    """Each destination's results, by its id."""
    durations: dict[int, list[int]] = defaultdict(list)
    found: dict[int, DeliveryRecord] = defaultdict(DeliveryRecord)
    for destination, accepted, duration in db.execute(ATTEMPTS, (ATTEMPTS_LOOKED_AT,)):
        found[destination].attempts += 1
        if accepted:
            found[destination].accepted += 1
            durations[destination].append(duration)
    for destination, some in durations.items():
        some.sort()
        found[destination].median = some[len(some) // 2]
        found[destination].p95 = some[min(len(some) - 1, len(some) * 95 // 100)]
    return found


def runs(db: Database, *, before: int, limit: int) -> list[dict[str, Any]]:
    """What was read from GitLab, newest first."""
    return list(db.query(RUNS, [before, limit]))
