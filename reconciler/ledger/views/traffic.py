"""The attempts of one destination over time: how many were accepted, how fast, and what the others failed with."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.times import HOUR, Millis
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import EACH_INTEGER, filled_in

MOST_ATTEMPTS = 100_000
"""At most so many attempts are looked at, the newest ones."""
MOST_FAILURES = 500
"""At most so many failed attempts are grouped, the newest ones."""
ATTEMPTS = """
    SELECT id, started_at, duration_ms + 0, error_class IS NULL FROM attempts
     WHERE destination_id = ? AND started_at >= ? ORDER BY started_at DESC LIMIT ?
"""
FAILURES = filled_in(
    "SELECT event_id, started_at, status, error_class, error FROM attempts WHERE id IN ({}) ORDER BY started_at DESC",
    EACH_INTEGER,
)


class Slot(msgspec.Struct, frozen=True):
    """The attempts that began in one period. Durations are those of accepted ones, in milliseconds."""

    start: Millis
    delivered: int = 0
    failed: int = 0
    median: int | None = None
    p95: int | None = None


class Period(msgspec.Struct, frozen=True):
    """A longer period: as a whole, and in slots of equal length."""

    total: Slot
    slots: list[Slot]


class Failures(msgspec.Struct, frozen=True):
    """Failed attempts with the same error. `event_id` is the event of the newest one."""

    count: int
    error_class: str
    status: int | None
    error: str
    first_at: str
    last_at: str
    event_id: int


class Traffic(msgspec.Struct, frozen=True):
    """A destination's attempts. If there were more than are looked at, `since` is when those looked at begin."""

    attempts: list[tuple[Millis, int, bool]]
    """When each began, how long it took, and whether it was accepted; the newest first."""
    failures: list[Failures]
    since: Millis | None

    def period(self, *, slots: int, hours: int, now: Millis) -> Period:
        """The last so many slots of so many hours. The last one has begun and is not over."""
        length = hours * HOUR
        start = Millis(now // HOUR * HOUR + HOUR - slots * length)
        parts: list[list[tuple[Millis, int, bool]]] = [[] for _ in range(slots)]
        for one in self.attempts:
            if one[0] >= start:
                parts[min(slots - 1, (one[0] - start) // length)].append(one)
        made = [_slot(Millis(start + n * length), part) for n, part in enumerate(parts)]
        return Period(_slot(start, [one for part in parts for one in part]), made)


def traffic(db: Database, destination_id: int, *, since: Millis) -> Traffic:
    """The attempts of a destination since a time."""
    rows = db.execute(ATTEMPTS, (destination_id, times.iso(since), MOST_ATTEMPTS)).fetchall()
    attempts = [(times.from_iso(at), duration, bool(accepted)) for _, at, duration, accepted in rows]
    failed = [ident for ident, _, _, accepted in rows if not accepted][:MOST_FAILURES]
    found = db.execute(FAILURES, (orjson.dumps(failed).decode(),)).fetchall() if failed else []
    return Traffic(attempts, _grouped(found), attempts[-1][0] if len(attempts) == MOST_ATTEMPTS else None)


def _slot(start: Millis, attempts: Sequence[tuple[Millis, int, bool]]) -> Slot:
    took = sorted(duration for _, duration, accepted in attempts if accepted)
    failed = len(attempts) - len(took)
    if not took:
        return Slot(start, failed=failed)
    return Slot(start, len(took), failed, took[len(took) // 2], took[min(len(took) - 1, len(took) * 95 // 100)])


def _grouped(rows: Sequence[tuple[int, str, int | None, str, str | None]]) -> list[Failures]:
    """Failed attempts, newest first, by error: the most frequent first."""
    groups: dict[tuple[str, int | None, str], list[tuple[int, str]]] = {}
    for event_id, at, status, error_class, error in rows:
        said = (error or "").strip().partition("\n")[0][:200]
        groups.setdefault((error_class, status, said), []).append((event_id, at))
    made = [
        Failures(len(some), error_class, status, said, some[-1][1], some[0][1], some[0][0])
        for (error_class, status, said), some in groups.items()
    ]
    return sorted(made, key=lambda one: -one.count)
