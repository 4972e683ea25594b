"""Looking up events: lists with filters, and single events with everything about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
_EACH = Sql("", postgresql=" OFFSET 0")
_BEFORE = " AND e.happened_at <= ? AND (e.happened_at < ? OR {0}e.id < ?)"
_STATES = """
    SELECT d.event_id, x.name, d.state FROM deliveries d JOIN destinations x ON x.id = d.destination_id
     WHERE d.event_id IN ({}) ORDER BY d.event_id, x.name
"""


class Filter(msgspec.Struct, frozen=True):
    """Which events to list. `kind` may also be an `event_name`. Times are when the event happened. `source` is a
    source's name, or the part before a colon. `delivery` is the state of a delivery, to `destination` or to any;
    `destination` alone means events with a delivery to it.
    """

    project: int | str | None = None
    kind: str | None = None
    action: str | None = None
    author: str | None = None
    delivery: str | None = None
    since: Millis | None = None
    until: Millis | None = None
    source: str | None = None
    destination: str | None = None

    @property
    def has_times(self) -> bool:
        return self.since is not None or self.until is not None

    def where(self, *, by_time: bool = False, each: bool = False) -> tuple[Sql, list[Any]]:
        """The filter as SQL on `events e`, and the values of its question marks.

        `by_time`: events are read in the order in which they happened, otherwise in the order of their ids. A `+`
        keeps SQLite from using an index that would make it read and sort everything that the filter matches.
        PostgreSQL knows from its statistics.

        `each`: only some events are looked at, so what belongs to each is looked up. PostgreSQL could read all of it.
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
                clauses += " AND EXISTS (SELECT 1 FROM sightings f WHERE f.id = e.sighting_id AND f.action = ?{1})"
                values.append(self.kind)
        for column, value in (("action", self.action), ("author", self.author)):
            if value is not None:
                clauses += " AND EXISTS (SELECT 1 FROM sightings f WHERE f.id = e.sighting_id "
                clauses += f"AND f.{column} = ?{{1}})"
                values.append(value)
        if self.delivery is not None or self.destination is not None:
            of_one = ""
            if self.destination is not None:
                of_one += " AND f.destination_id = (SELECT id FROM destinations WHERE name = ?)"
                values.append(self.destination)
            if self.delivery is not None:
                of_one += " AND f.state = ?"
                values.append(self.delivery)
            clauses += f" AND EXISTS (SELECT 1 FROM deliveries f WHERE f.event_id = e.id{of_one}{{1}})"
        if self.since is not None:
            clauses += f" AND {time}e.happened_at >= ?"
            values.append(times.iso(self.since))
        if self.until is not None:
            clauses += f" AND {time}e.happened_at < ?"
            values.append(times.iso(self.until))
        if self.source is not None:
            clauses += (
                " AND EXISTS (SELECT 1 FROM sightings f WHERE f.event_id = e.id AND "
                "(f.source = ? OR f.source LIKE ? ESCAPE '!'){1})"
            )
            begins = self.source.replace("!", "!!").replace("%", "!%").replace("_", "!_")
            values += [self.source, begins + ":%"]
        return filled_in(clauses, NO_INDEX, _EACH if each else ""), values


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


def page(
    db: Database, wanted: Filter, *, limit: int, before: Place | None = None, through: Place | None = None
) -> list[dict[str, Any]]:
    """The next events that match a filter, newest first: by when they happened if the filter has times, otherwise by
    when they were recorded. The next page begins `before` the place of the last one (see `place_of`). No event beyond
    `through` is looked at.
    """
    where, values = wanted.where(by_time=wanted.has_times, each=through is not None)
    if not wanted.has_times:
        sql = filled_in("{}{} AND e.id < ? AND e.id >= ? ORDER BY e.id DESC LIMIT ?", LIST, where)
        end = FAR if before is None else before.event_id
        return list(db.query(sql, [*values, end, 0 if through is None else through.event_id, limit]))
    place = ""
    if before is not None:
        place = _BEFORE
        values += [before.happened_at, before.happened_at, before.event_id]
    if through is not None:
        place += " AND e.happened_at >= ?"
        values.append(through.happened_at)
    order = "ORDER BY e.happened_at DESC, e.id DESC LIMIT ?"
    sql = filled_in("{}{}{} {}", LIST, where, filled_in(place, NO_INDEX), order)
    return list(db.query(sql, [*values, limit]))


def place_of(wanted: Filter, row: dict[str, Any]) -> Place:
    """The place of an event in the list that `page` reads."""
    return Place(row["id"], row["happened_at"] if wanted.has_times else None)


def end_of_look(db: Database, wanted: Filter, *, before: Place | None, events: int) -> Place | None:
    """The place of the last of so many events that come next, of those that match a filter which one index finds (a
    project, a kind, or times); None if there are fewer.
    """
    where, values = wanted.where(by_time=wanted.has_times)
    place, order = "", "e.id DESC"
    if wanted.has_times:
        order = "e.happened_at DESC, e.id DESC"
        if before is not None:
            place = _BEFORE
            values += [before.happened_at, before.happened_at, before.event_id]
    elif before is not None:
        place = " AND e.id < ?"
        values.append(before.event_id)
    start = "SELECT e.id, e.happened_at FROM events e WHERE e.merged_into IS NULL"
    sql = filled_in(f"{start}{{}}{{}} ORDER BY {order} LIMIT 1 OFFSET ?", where, filled_in(place, NO_INDEX))
    row = db.execute(sql, [*values, events - 1]).fetchone()
    return None if row is None else Place(row[0], row[1] if wanted.has_times else None)


def delivery_states(db: Database, ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    """The deliveries of some events: of each, destinations and states."""
    found: dict[int, list[tuple[str, str]]] = {ident: [] for ident in ids}
    if ids:
        marks = ",".join("?" * len(ids))
        for event_id, name, state in db.execute(_STATES.format(marks), list(ids)):
            found[event_id].append((name, state))
    return found


def after(
    db: Database, wanted: Filter, *, event_id: int, through: int = FAR, limit: int = 500
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


def exists(db: Database, event_id: int) -> bool:
    """Whether there is an event with this id."""
    return db.execute("SELECT 1 FROM events WHERE id = ?", (event_id,)).fetchone() is not None


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
