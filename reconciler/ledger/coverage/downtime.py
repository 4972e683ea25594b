"""Downtime of the service: it writes a heartbeat, and a start notes the time since the last one as downtime.

If a receiver accepted webhooks all the while, only the worker was down: nothing was missed, and nothing is noted.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.times import MINUTE, SECOND, Millis
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database

STOPPED, KILLED = "stopped", "killed"
_ALIVE, _STOPPED, _STARTED, _RESUMED = "alive_at", "stopped_at", "started_at", "resumed_at"

QUIET = Millis(40 * SECOND)
"""A service whose last heartbeat is older counts as down. It writes one every 10 seconds."""
RESTART = Millis(2 * MINUTE)
"""A downtime that is no longer is only a restart."""


class Downtime(msgspec.Struct, frozen=True):
    """From the last heartbeat to the next start. `how` says whether the service was stopped, or killed or crashed.

    With `received`, a receiver accepted webhooks meanwhile: only the worker was down.
    """

    during: Interval
    how: str
    received: bool = False


class Life(msgspec.Struct, frozen=True):
    """The service's last start and its last heartbeat. Both are None if none has ever run."""

    started_at: Millis | None
    alive_at: Millis | None
    stopped: bool

    def runs(self, now: Millis) -> bool:
        """Whether the service is running, as far as its heartbeat tells. One in the future tells nothing: the clock
        was set back since.
        """
        return self.alive_at is not None and not self.stopped and abs(now - self.alive_at) <= QUIET


def life(db: Database) -> Life:
    """Whether the service runs, and since when, judging by its heartbeats."""
    alive_at = _read(db, _ALIVE)
    return Life(_read(db, _STARTED), alive_at, alive_at is not None and _read(db, _STOPPED) == alive_at)


def note_start(db: Database, now: Millis, *, received: Callable[[Interval], bool]) -> Downtime | None:
    """The service starts. Notes how long it was down, and returns that; None at its first start. `received` says
    whether a receiver accepted webhooks all the while.
    """
    last, stopped = _read(db, _ALIVE), _read(db, _STOPPED)
    found = None
    if last is not None:
        during = Interval(last, max(now, last))
        found = Downtime(during, STOPPED if stopped == last else KILLED, received(during))
        if not found.received:
            db.execute(
                "INSERT INTO downtimes (started_at, ended_at, how) VALUES (?, ?, ?) "
                "ON CONFLICT (started_at) DO UPDATE SET ended_at = excluded.ended_at, how = excluded.how",
                (times.iso(last), times.iso(during.end), found.how),
            )
        elif during.end - last > RESTART:
            meta.put(db, _RESUMED, times.iso(during.end))
    heartbeat(db, now)
    meta.put(db, _STARTED, times.iso(now))
    meta.delete(db, _STOPPED)
    return found


def heartbeat(db: Database, now: Millis) -> None:
    """The service is alive."""
    meta.put(db, _ALIVE, times.iso(now))


def note_stop(db: Database, now: Millis) -> None:
    """The service stops in order."""
    meta.put(db, _ALIVE, times.iso(now))
    meta.put(db, _STOPPED, times.iso(now))


def resumed_at(db: Database) -> Millis | None:
    """When the worker last started after it alone had been down for longer than a restart takes."""
    return _read(db, _RESUMED)


def downtimes(db: Database) -> list[Downtime]:
    """All downtimes, oldest first. One whose end is unreadable counts as lasting until the latest possible time."""
    rows = db.execute("SELECT started_at, ended_at, how FROM downtimes").fetchall()
    found = [
        Downtime(Interval(times.from_iso(start), times.written(end) or times.LATEST), how) for start, end, how in rows
    ]
    return sorted(found, key=lambda one: one.during.start)


def _read(db: Database, name: str) -> Millis | None:
    value = meta.get(db, name)
    return None if value is None else times.from_iso(value)
