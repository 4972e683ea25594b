"""Destinations: which there are, which are paused, and the states of their circuit breakers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.storage import columns
from reconciler.ledger.storage.database import Database

Start = Literal["now", "beginning"] | Millis
"""Which events a new destination gets: future ones, all, or those that happened since a time."""

GONE = "410 Gone"
"""Why a destination is paused that answers so."""

BreakerName = Literal["closed", "open", "half_open"]
_BREAKER_NAMES = get_args(BreakerName)


class Breaker(msgspec.Struct, frozen=True):
    """A circuit breaker's state. `failures` counts failures in a row; `until` is when the next probe may be sent."""

    state: BreakerName = "closed"
    failures: int = 0
    until: Millis = Millis(0)
    changed_at: Millis | None = None


class DestinationSpec(msgspec.Struct, frozen=True):
    """A destination as the config describes it."""

    name: str
    ordering: str = "project"
    start: Start = "now"


class DestinationState(msgspec.Struct, frozen=True):
    """A destination as the ledger has it."""

    id: int
    name: str
    active: bool
    paused_at: Millis | None
    paused_why: str | None
    breaker: Breaker
    filling: bool
    resumes: int

    @property
    def state(self) -> str:
        """The state in words, the most important first."""
        if not self.active:
            return "not in the config"
        if self.paused_at is not None:
            return f"paused ({self.paused_why})"
        return "up" if self.breaker.state == "closed" else "down"


def sync(db: Database, specs: Iterable[DestinationSpec], *, now: Millis) -> dict[str, int]:
    """Make these the active destinations. Returns their ids by name.

    A destination that is no longer in the config becomes inactive, and keeps its pending deliveries. `start` matters
    for a new one only: it notes which past events it gets, and `queue.past_deliveries` opens them.
    """
    specs = list(specs)
    known = {name for (name,) in db.execute("SELECT name FROM destinations").fetchall()}
    db.execute("UPDATE destinations SET active = 0 WHERE active = 1")
    for one in specs:
        if one.name in known:
            db.execute("UPDATE destinations SET ordering = ?, active = 1 WHERE name = ?", (one.ordering, one.name))
        else:
            _insert(db, one)
    return active(db)


def add(db: Database, specs: Iterable[DestinationSpec]) -> dict[str, int]:
    """Add the destinations that are new to the ledger. Others stay active or inactive: only the service changes that.

    Returns the ids of the active destinations by name.
    """
    known = {name for (name,) in db.execute("SELECT name FROM destinations").fetchall()}
    for one in specs:
        if one.name not in known:
            _insert(db, one)
    return active(db)


def active(db: Database) -> dict[str, int]:
    """The ids of the active destinations, by name."""
    return dict(db.execute("SELECT name, id FROM destinations WHERE active = 1").fetchall())


def _insert(db: Database, one: DestinationSpec) -> None:
    """Insert a new destination, with the range of past events that it gets."""
    db.execute("INSERT INTO destinations (name, ordering, active) VALUES (?, ?, 1)", (one.name, one.ordering))
    if one.start != "now":
        since = None if one.start == "beginning" else times.iso(one.start)
        db.execute(
            """
            UPDATE destinations SET fill_after = 0, fill_from = ?,
                                    fill_through = (SELECT coalesce(max(id), 0) FROM events) WHERE name = ?
            """,
            (since, one.name),
        )


def destination_states(db: Database) -> list[DestinationState]:
    """All destinations, by name."""
    rows = db.execute(
        """
        SELECT id, name, active, paused_at, paused_why, breaker, breaker_failures, breaker_until,
               breaker_changed_at, fill_after IS NOT NULL, resumes FROM destinations ORDER BY name
        """
    )
    return [
        DestinationState(
            id=ident,
            name=name,
            active=bool(active),
            paused_at=_millis(paused_at),
            paused_why=why,
            breaker=_breaker(state, failures, until, changed_at),
            filling=bool(filling),
            resumes=resumes,
        )
        for ident, name, active, paused_at, why, state, failures, until, changed_at, filling, resumes in rows
    ]


def pause(db: Database, destination_id: int, why: str, *, now: Millis) -> None:
    """Send nothing to it; its deliveries stay pending."""
    db.execute(
        "UPDATE destinations SET paused_at = ?, paused_why = ? WHERE id = ? AND paused_at IS NULL",
        (times.iso(now), why, destination_id),
    )


def resume(db: Database, destination_id: int) -> None:
    """Send to it again: a probe is sent at once, even if the breaker is open, and no delivery waits for its retry."""
    db.execute(
        """
        UPDATE destinations SET paused_at = NULL, paused_why = NULL, breaker_until = NULL, resumes = resumes + 1,
                                breaker = CASE breaker WHEN 'closed' THEN 'closed' ELSE 'half_open' END
         WHERE id = ?
        """,
        (destination_id,),
    )
    db.execute(
        "UPDATE deliveries SET state = 'pending' WHERE destination_id = ? AND state = 'retrying'", (destination_id,)
    )


def remove(db: Database, destination_id: int) -> None:
    """Delete a destination with its deliveries and attempts."""
    for table in ("attempts", "deliveries"):
        db.execute(f"DELETE FROM {table} WHERE destination_id = ?", (destination_id,))
    db.execute("DELETE FROM destinations WHERE id = ?", (destination_id,))


def note_breaker(db: Database, destination_id: int, breaker: Breaker) -> None:
    """Keep a breaker's state beyond the process."""
    db.execute(
        """
        UPDATE destinations SET breaker = ?, breaker_failures = ?, breaker_until = ?, breaker_changed_at = ?
         WHERE id = ?
        """,
        (
            breaker.state,
            breaker.failures,
            times.iso(breaker.until) if breaker.until else None,
            None if breaker.changed_at is None else times.iso(breaker.changed_at),
            destination_id,
        ),
    )


def _breaker(state: str, failures: int, until: str | None, changed_at: str | None) -> Breaker:
    """A breaker's state. An unreadable one counts as closed: the next attempts will show."""
    for name in _BREAKER_NAMES:
        if name == state:
            return Breaker(name, columns.count(failures), _millis(until) or Millis(0), _millis(changed_at))
    return Breaker()


def _millis(text: str | None) -> Millis | None:
    return None if text is None else times.from_iso(text)
