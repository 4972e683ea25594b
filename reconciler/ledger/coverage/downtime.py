"""When the service was down: it leaves a sign of life, and what lies between two lives is noted."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

from reconciler.events import times
from reconciler.events.times import SECOND, Millis
from reconciler.ledger.coverage.intervals import Interval

STOPPED, KILLED = "stopped", "killed"
_ALIVE, _STOPPED, _STARTED = "alive_at", "stopped_at", "started_at"

QUIET = Millis(40 * SECOND)
"""A service that has left no sign of life for so long is taken to be gone: it leaves one in every 10 seconds."""


class Downtime(msgspec.Struct, frozen=True):
    """From the last sign of life to the next start. `how`: it was stopped, or it was killed or crashed."""

    during: Interval
    how: str


class Life(msgspec.Struct, frozen=True):
    """The service's last start and its last sign of life; both None where none has ever run."""

    started_at: Millis | None
    alive_at: Millis | None
    stopped: bool

    def runs(self, now: Millis) -> bool:
        """Whether the service is running, as far as the ledger can tell."""
        return self.alive_at is not None and not self.stopped and now - self.alive_at <= QUIET


def life(db: Database) -> Life:
    """How the service is, going by its signs of life."""
    alive_at = _read(db, _ALIVE)
    return Life(_read(db, _STARTED), alive_at, alive_at is not None and _read(db, _STOPPED) == alive_at)


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
    _write(db, _STARTED, now)
    db.conn.execute("DELETE FROM meta WHERE name = ?", (_STOPPED,))
    return found


def beat(db: Database, now: Millis) -> None:
    """A sign of life."""
    _write(db, _ALIVE, now)


def rest(db: Database, now: Millis) -> None:
    """The service stops as it should."""
    _write(db, _ALIVE, now)
    _write(db, _STOPPED, now)


def downtimes(db: Database) -> list[Downtime]:
    """All of them, oldest first. One whose end can't be read is taken to be as long as it can have been."""
    rows = db.conn.execute("SELECT started_at, ended_at, how FROM downtimes").fetchall()
    found = [
        Downtime(Interval(times.from_iso(start), times.written(end) or times.LATEST), how) for start, end, how in rows
    ]
    return sorted(found, key=lambda one: one.during.start)


def _read(db: Database, name: str) -> Millis | None:
    row = db.conn.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else times.from_iso(row[0])


def _write(db: Database, name: str, at: Millis) -> None:
    db.conn.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, times.iso(at)),
    )
