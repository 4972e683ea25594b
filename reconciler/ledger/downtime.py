"""When the service was down: it leaves a sign of life, and what lies between two lives is noted."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.coverage import Interval

STOPPED, KILLED = "stopped", "killed"
_ALIVE, _STOPPED = "alive_at", "stopped_at"


class Downtime(msgspec.Struct, frozen=True):
    """From the last sign of life to the next start. `how`: it was stopped, or it was killed or crashed."""

    during: Interval
    how: str


def wake(db: Database, now: Millis) -> Downtime | None:
    """The service starts: note how long it was down. None at its first start."""
    last, stopped = _read(db, _ALIVE), _read(db, _STOPPED)
    found = None
    if last is not None:
        found = Downtime(Interval(last, max(now, last)), STOPPED if stopped == last else KILLED)
        db.conn.execute(
            "INSERT OR REPLACE INTO downtimes (started_at, ended_at, how) VALUES (?, ?, ?)",
            (times.iso(last), times.iso(found.during.end), found.how),
        )
    beat(db, now)
    return found


def beat(db: Database, now: Millis) -> None:
    """A sign of life."""
    _write(db, _ALIVE, now)


def rest(db: Database, now: Millis) -> None:
    """The service stops as it should."""
    _write(db, _ALIVE, now)
    _write(db, _STOPPED, now)


def downtimes(db: Database, within: Interval) -> list[Downtime]:
    """Those that touch a stretch of time, oldest first."""
    rows = db.conn.execute(
        "SELECT started_at, ended_at, how FROM downtimes WHERE started_at < ? AND ended_at > ? ORDER BY started_at",
        (times.iso(within.end), times.iso(within.start)),
    )
    return [Downtime(_interval(start, end, within), how) for start, end, how in rows]


def _interval(start: str, end: str, within: Interval) -> Interval:
    """A downtime. Where a bound can't be read, it is taken to be as long as it can have been."""
    return Interval(times.from_iso(start), times.written(end) or within.end)


def _read(db: Database, name: str) -> Millis | None:
    row = db.conn.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else times.from_iso(row[0])


def _write(db: Database, name: str, at: Millis) -> None:
    db.conn.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, times.iso(at)),
    )
