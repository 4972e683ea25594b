"""Looking up events: lists with filters, and single events with everything about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.events.webhooks import KIND_OF
from reconciler.ledger.queue import known
from reconciler.ledger.storage import columns
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql, filled_in

_LISTED = """
    SELECT e.id, e.happened_at, e.recorded_at, e.project_id, s.project_path, e.kind, s.action, s.author, s.title,
           s.ref,
           (SELECT {sources} FROM sightings WHERE event_id = e.id) AS sources
      FROM {events} {join} sightings s ON s.id = e.sighting_id
     WHERE e.merged_into IS NULL
"""
_SOURCES = Sql("group_concat(source, ' ')", postgresql="string_agg(source, ' ' ORDER BY id)")
LIST = filled_in(_LISTED, sources=_SOURCES, events="events e", join=Sql("CROSS JOIN", postgresql="JOIN"))
LIST_FOUND = filled_in(
    f"{_LISTED} AND search MATCH ? AND search.rowid < ?",
    sources=_SOURCES,
    events="search CROSS JOIN events e ON e.id = search.rowid",
    join="CROSS JOIN",
)
"""Of events that SQLite's index of words finds, which is read once, as far as needed."""
NO_INDEX = Sql("+", postgresql="")
"""Before a column: SQLite is to use another index than its."""
FAR = 1 << 62
"""Larger than any event's id."""


class Filter(msgspec.Struct, frozen=True):
    """Which events to list. `kind` may also be an `event_name`. Times are when the event happened. `source` is a
    source's name, or the part before a colon. `delivery` is the state of a delivery to any destination.
    """

    project: int | str | None = None
    kind: str | None = None
    action: str | None = None
    author: str | None = None
    delivery: str | None = None
    since: Millis | None = None
    until: Millis | None = None
    source: str | None = None

    @property
    def has_times(self) -> bool:
        return self.since is not None or self.until is not None

    def where(self, *, by_time: bool = False) -> tuple[Sql, list[Any]]:
        """The filter as SQL on `events e`, and the values of its question marks.

        `by_time`: events are read in the order in which they happened, otherwise in the order of their ids. A `+`
        keeps SQLite from using an index that would make it read and sort everything that the filter matches.
        PostgreSQL knows from its statistics.
        """
        clauses, values = "", list[Any]()
        others, time = ("{0}", "") if by_time else ("", "{0}")
        if self.project is not None:
            by_id = isinstance(self.project, int)
            clauses += f" AND {others}e.project_id = " + ("?" if by_id else known.PROJECT_OF_PATH)
            values += [self.project] if by_id else [self.project, self.project]
        if self.kind is not None:
            clauses += f" AND {others}e.kind = ?"
            values.append(KIND_OF.get(self.kind, self.kind))
            if self.kind in KIND_OF:
                clauses += " AND EXISTS (SELECT 1 FROM sightings f WHERE f.id = e.sighting_id AND f.action = ?)"
                values.append(self.kind)
        for column, value in (("action", self.action), ("author", self.author)):
            if value is not None:
                clauses += f" AND EXISTS (SELECT 1 FROM sightings f WHERE f.id = e.sighting_id AND f.{column} = ?)"
                values.append(value)
        if self.delivery is not None:
            clauses += " AND EXISTS (SELECT 1 FROM deliveries f WHERE f.event_id = e.id AND f.state = ?)"
            values.append(self.delivery)
        if self.since is not None:
            clauses += f" AND {time}e.happened_at >= ?"
            values.append(times.iso(self.since))
        if self.until is not None:
            clauses += f" AND {time}e.happened_at < ?"
            values.append(times.iso(self.until))
        if self.source is not None:
            clauses += (
                " AND EXISTS (SELECT 1 FROM sightings f WHERE f.event_id = e.id AND "
                "(f.source = ? OR f.source LIKE ? ESCAPE '!'))"
            )
            begins = self.source.replace("!", "!!").replace("%", "!%").replace("_", "!_")
            values += [self.source, begins + ":%"]
        return filled_in(clauses, NO_INDEX), values


def newest(db: Database, wanted: Filter, *, limit: int, before: int = FAR) -> list[dict[str, Any]]:
    """The newest events that match a filter and have an id before `before`, in the order of their ids.

    If the filter has times, the newest are those that happened last, otherwise those that were recorded last.
    """
    where, values = wanted.where(by_time=wanted.has_times)
    order = "e.happened_at DESC, e.id DESC" if wanted.has_times else "e.id DESC"
    hint = NO_INDEX if wanted.has_times else ""
    sql = filled_in(f"{{}}{{}} AND {{}}e.id < ? ORDER BY {order} LIMIT ?", LIST, where, hint)
    rows = db.query(sql, [*values, before, limit])
    return sorted(rows, key=lambda row: row["id"])


class Place(msgspec.Struct, frozen=True):
    """Where a page of events ends. `happened_at` is None in a list in the order of recording."""

    event_id: int
    happened_at: str | None = None


def page(db: Database, wanted: Filter, *, limit: int, before: Place | None = None) -> list[dict[str, Any]]:
    """The next events that match a filter, newest first: by when they happened if the filter has times, otherwise by
    when they were recorded. The next page begins `before` the place of the last one (see `place_of`).
    """
    where, values = wanted.where(by_time=wanted.has_times)
    if not wanted.has_times:
        sql = filled_in("{}{} AND e.id < ? ORDER BY e.id DESC LIMIT ?", LIST, where)
        return list(db.query(sql, [*values, FAR if before is None else before.event_id, limit]))
    place = ""
    if before is not None:
        place = " AND e.happened_at <= ? AND (e.happened_at < ? OR {0}e.id < ?)"
        values += [before.happened_at, before.happened_at, before.event_id]
    order = "ORDER BY e.happened_at DESC, e.id DESC LIMIT ?"
    sql = filled_in("{}{}{} {}", LIST, where, filled_in(place, NO_INDEX), order)
    return list(db.query(sql, [*values, limit]))


def place_of(wanted: Filter, row: dict[str, Any]) -> Place:
    """The place of an event in the list that `page` reads."""
    return Place(row["id"], row["happened_at"] if wanted.has_times else None)


def after(
    db: Database, wanted: Filter, *, event_id: int, through: int = 1 << 62, limit: int = 500
) -> list[dict[str, Any]]:
    """The events that were recorded after an event, up to the id `through`, in the order of their ids."""
    where, values = wanted.where()
    sql = filled_in("{}{} AND e.id > ? AND e.id <= ? ORDER BY e.id LIMIT ?", LIST, where)
    return list(db.query(sql, [*values, event_id, through, limit]))


def last_id(db: Database) -> int:
    """The newest event's id, 0 in an empty ledger."""
    newest_id: int = db.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0]
    return newest_id


def next_id(db: Database, event_id: int) -> int | None:
    """The id of the first event that was recorded after an event; None if there is none."""
    found: int | None = db.execute("SELECT min(id) FROM events WHERE id > ?", (event_id,)).fetchone()[0]
    return found


def show(db: Database, event_id: int) -> dict[str, Any] | None:
    """One event with its payload, its sightings and its deliveries; None if there is none with this id.

    The payload is the stored JSON text: its numbers or its depth may be more than a parser accepts.
    """
    found = next(_rows(db, "SELECT * FROM events WHERE id = ?", event_id), None)
    if found is None:
        return None
    sightings = list(
        _rows(
            db,
            """
            SELECT id, source, source_id, key, happened_at, precision, seen_at, kind, action, project_path, author,
                   title, ref, recovery, headers, payload
              FROM sightings WHERE event_id = ? ORDER BY seen_at, id
            """,
            event_id,
        )
    )
    payload = next((s["payload"] for s in sightings if s["id"] == found["sighting_id"]), None)
    for sighting in sightings:
        sighting["headers"] = columns.headers(sighting["headers"])
        recovery = columns.recovery(sighting["recovery"])
        sighting["recovery"] = recovery and msgspec.structs.asdict(recovery)
        del sighting["payload"]
    found["payload"] = payload
    found["sightings"] = sightings
    found["deliveries"] = list(
        _rows(
            db,
            """
            SELECT x.name AS destination, d.state, d.attempts, d.opened_at, d.first_attempt_at, d.next_attempt_at,
                   d.finished_at, d.last_status, d.last_error
              FROM deliveries d JOIN destinations x ON x.id = d.destination_id WHERE d.event_id = ? ORDER BY x.name
            """,
            event_id,
        )
    )
    return found


def _rows(db: Database, sql: str, value: int) -> Iterator[dict[str, Any]]:
    return iter(list(db.query(sql, [value])))
