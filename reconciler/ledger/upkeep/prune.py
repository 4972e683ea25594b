"""Pruning: rows older than their retention are deleted. Undelivered events are kept.

It works in short steps, so that a service can write between them. Each step reads a table from its oldest row and
stops at the first one that is kept, so that the cost depends on what is deleted, not on what is kept.
"""

from __future__ import annotations

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.times import DAY, Millis
from reconciler.ledger.coverage import unreadable
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import EACH_INTEGER, Sql, filled_in
from reconciler.ledger.storage.sqlite import SqliteDatabase

ROWS_A_STEP = 500
PAGES_A_STEP = 1000
_HORIZON = "pruned_through"

# A count: PostgreSQL would read all deliveries for EXISTS, as it does not see that few events are asked about.
_OLD_EVENTS = """
    SELECT id, recorded_at, happened_at,
           (SELECT count(*) FROM deliveries d WHERE d.event_id = events.id AND (
               d.state IN ('pending', 'retrying') OR d.finished_at >= ?2
               OR (d.state = 'dead' AND (CAST(?3 AS TEXT) IS NULL OR d.finished_at >= ?3)))) > 0
      FROM events WHERE id > ?1 ORDER BY id LIMIT ?4
"""
_DROP_OF_EVENTS = {
    table: filled_in(f"DELETE FROM {table} WHERE event_id IN ({{}})", EACH_INTEGER)
    for table in ("attempts", "deliveries", "sightings")
}
_DROP_EVENTS = filled_in("DELETE FROM events WHERE id IN ({})", EACH_INTEGER)
_DROP_FROM_SEARCH = Sql("DELETE FROM search WHERE rowid = ?", postgresql="DELETE FROM search WHERE event_id = ?")


class Keep(msgspec.Struct, frozen=True):
    """How long each kind of row is kept. None means forever."""

    events: Millis | None
    dead_letters: Millis | None
    attempts: Millis | None
    runs: Millis | None


class Pruned(msgspec.Struct):
    """How many rows were deleted, and how many pages were returned to the disk. PostgreSQL does that by itself."""

    events: int = 0
    sightings: int = 0
    deliveries: int = 0
    attempts: int = 0
    runs: int = 0
    unreadable_records: int = 0
    pages: int = 0


class Pruning:
    """One pruning in steps: call `step`, each time in a transaction, until it returns True."""

    def __init__(self, keep: Keep, *, now: Millis) -> None:
        self._keep = keep
        self._now = now
        self._after = 0
        self._steps = [self._events, self._attempts, self._runs, self._unreadable, self._vacuum]
        self.pruned = Pruned()

    def step(self, db: Database) -> bool:
        """Do one step. True if nothing is left to do."""
        if not self._steps[0](db):
            del self._steps[0]
        return not self._steps

    def _events(self, db: Database) -> bool:
        """Events that are old and have no delivery to keep, with everything that belongs to them."""
        before = self._before(self._keep.events)
        if before is None:
            return False
        asked = (self._after, before, self._before(self._keep.dead_letters), ROWS_A_STEP)
        rows = db.execute(_OLD_EVENTS, asked).fetchall()
        old = [
            (ident, _believed(happened, recorded))
            for ident, recorded, happened, wanted in rows
            if recorded < before and not wanted
        ]
        if old:
            self._drop(db, old)
        if not rows or rows[-1][1] >= before:
            return False
        self._after = rows[-1][0]
        return True

    def _drop(self, db: Database, old: list[tuple[int, str]]) -> None:
        ids = orjson.dumps([ident for ident, _ in old]).decode()
        for table, drop in _DROP_OF_EVENTS.items():
            dropped = db.execute(drop, (ids,)).rowcount
            setattr(self.pruned, table, getattr(self.pruned, table) + dropped)
        db.execute(_DROP_EVENTS, (ids,))
        db.executemany(_DROP_FROM_SEARCH, [(ident,) for ident, _ in old])
        self.pruned.events += len(old)
        meta.raise_to(db, _HORIZON, max(happened for _, happened in old))

    def _attempts(self, db: Database) -> bool:
        dropped, more = self._oldest(db, "attempts", "started_at", self._before(self._keep.attempts))
        self.pruned.attempts += dropped
        return more

    def _runs(self, db: Database) -> bool:
        dropped, more = self._oldest(db, "runs", "finished_at", self._before(self._keep.runs))
        self.pruned.runs += dropped
        return more

    def _unreadable(self, db: Database) -> bool:
        """Unreadable records are kept as long as events, since they may be events."""
        before = self._before(self._keep.events)
        dropped = 0 if before is None else unreadable.drop(db, before=before, limit=ROWS_A_STEP)
        self.pruned.unreadable_records += dropped
        return dropped == ROWS_A_STEP

    def _oldest(self, db: Database, table: str, column: str, before: str | None) -> tuple[int, bool]:
        """Delete the oldest rows of a table whose ids grow with time."""
        if before is None:
            return 0, False
        rows = db.execute(
            f"SELECT id, {column} FROM {table} WHERE id > 0 ORDER BY id LIMIT ?", (ROWS_A_STEP,)
        ).fetchall()
        old = [ident for ident, at in rows if at < before]
        if old:
            db.execute(f"DELETE FROM {table} WHERE id <= ?", (old[-1],))
        return len(old), len(old) == ROWS_A_STEP

    def _vacuum(self, db: Database) -> bool:
        """Return free pages to the disk, some at a time."""
        if not isinstance(db, SqliteDatabase):
            return False
        free = db.execute("PRAGMA freelist_count").fetchone()[0]
        for _ in range(min(free, PAGES_A_STEP)):
            db.execute("PRAGMA incremental_vacuum(1)")  # Python's sqlite3 gives one page back, whatever is asked for
        left = db.execute("PRAGMA freelist_count").fetchone()[0]
        self.pruned.pages += free - left
        return bool(0 < left < free)

    def _before(self, keep: Millis | None) -> str | None:
        return None if keep is None else times.iso(Millis(self._now - keep))


def _believed(happened_at: str, recorded_at: str) -> str:
    """When an event happened. It can't be after it was recorded, except for a difference between clocks."""
    if happened_at <= recorded_at:
        return happened_at
    return min(happened_at, times.iso(Millis(times.from_iso(recorded_at) + DAY)))


def horizon(db: Database) -> Millis | None:
    """When the latest pruned event happened. Earlier events that are read again are new to the ledger."""
    value = meta.get(db, _HORIZON)
    return None if value is None else times.from_iso(value)
