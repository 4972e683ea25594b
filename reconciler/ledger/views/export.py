"""Reads events for an export, a bounded part at a time.

No transaction stays open between two parts: an export that waits for its reader keeps nothing from being recorded,
removed or cleaned up. The ids of events never change, so that reading in their order passes each of them once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from reconciler.events.sighting import OWN_KINDS
from reconciler.ledger.storage import columns
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids
from reconciler.ledger.storage.sql import Sql, filled_in, look_up
from reconciler.ledger.views.browse import Filter

ROWS, BYTES = 1000, 4 * 1024 * 1024
"""A part ends when it has so many events, or so many bytes of payload."""
STEP = 20_000
"""A statement looks at so many events at most: a filter may match few of them, or none."""

_COLUMNS = """id, kind, action, project_id, project_path, author, title, ref, object, happened_at, recorded_at,
              seen_at, source, sources, recovery, payload"""
_FOUND = filled_in(
    """
    SELECT e.id, s.kind, s.action, s.project_id, s.project_path, s.author, s.title, s.ref, s.object, e.happened_at,
           e.recorded_at, s.seen_at, s.source,
           (SELECT {} FROM sightings WHERE event_id = e.id) AS sources,
           s.recovery, s.payload
      FROM events e {}
    """,
    Sql("group_concat(source, ' ')", postgresql="string_agg(source, ' ' ORDER BY id)"),
    look_up("sightings", "s", "s.id = e.sighting_id"),
)
# PostgreSQL sends all rows at once, so that those beyond the bound must not be among them.
_BOUNDED = f"""
    SELECT {_COLUMNS} FROM (
        SELECT *, sum(octet_length(payload)) OVER (
                    ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before FROM ({{}}) AS found
    ) AS sized WHERE bytes_before IS NULL OR bytes_before < {BYTES} ORDER BY id
"""


class Exported(msgspec.Struct, frozen=True):
    """An event as an export has it. What has the same name in a delivery to a destination has the same value.

    `source` is the source of the report that `payload` comes from, `seen_at` when that report arrived, `sources`
    those of all its reports. `recovered` is None if a webhook delivered the payload, otherwise as `Recovery` has it,
    with the paths of the fields that are `unknown` or `redacted`. Times are as the ledger writes them.
    """

    id: str
    kind: str
    action: str | None
    project_id: int | None
    project_path: str | None
    author: str | None
    title: str | None
    ref: str | None
    object: str | None
    happened_at: str
    recorded_at: str
    seen_at: str
    source: str
    sources: list[str]
    recovered: str | None
    unknown: list[str]
    redacted: list[str]
    payload: str


class Part(msgspec.Struct, frozen=True):
    """Some events, or none, and how much of everything was read with them, up to 1."""

    events: Sequence[Exported]
    passed: float


def parts(db: Database, wanted: Filter) -> Iterator[Part]:
    """The events that are in the ledger now and match a filter, in the order of their ids.

    Each is as it is when it is read. Those that the ledger has merged into another are not among them, and neither
    are the service's own alerts and tests, unless the filter names their kind.
    """
    first, through = _span(db, wanted)
    event_id = event_ids(db)
    where, values = wanted.where()
    if wanted.kind not in OWN_KINDS:
        where = filled_in("{} AND e.kind NOT IN ({})", where, ", ".join("?" * len(OWN_KINDS)))
        values += OWN_KINDS
    found = filled_in(
        "{} WHERE e.merged_into IS NULL{} AND e.id > ? AND e.id <= ? ORDER BY e.id LIMIT ?", _FOUND, where
    )
    sql = Sql(found, postgresql=_BOUNDED.format(found.postgresql))
    last = first - 1
    while last < through:
        end = _end_of_step(db, last, through)
        while rows := _bounded(db, sql, (*values, last, end, ROWS)):
            last = rows[-1][0]
            passed = (last - first + 1) / (through - first + 1)
            yield Part([_exported(event_id(number), *row) for number, *row in rows], passed)
        if last < end:
            last = end
            yield Part((), (last - first + 1) / (through - first + 1))


def _end_of_step(db: Database, last: int, through: int) -> int:
    """The number of the last event that the next statements look at."""
    sql = "SELECT id FROM events WHERE id > ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?"
    found = db.execute(sql, (last, through, STEP - 1)).fetchone()
    return through if found is None else int(found[0])


def _span(db: Database, wanted: Filter) -> tuple[int, int]:
    """The numbers of the first and the last event of a filter's times; of none, 0 and 0.

    Events are recorded mostly in the order in which they happen, so that little else is read for a range of times.
    """
    if wanted.has_times:
        where, values = Filter(since=wanted.since, until=wanted.until).where(by_time=True)
        row = db.execute(filled_in("SELECT min(e.id), max(e.id) FROM events e WHERE 1 = 1{}", where), values)
    else:  # two look-ups; together they would read all
        row = db.execute("SELECT (SELECT min(id) FROM events), (SELECT max(id) FROM events)")
    first, last = row.fetchone()
    return first or 0, last or 0


def _bounded(db: Database, sql: Sql, values: Sequence[Any]) -> list[Any]:
    rows, size = [], 0
    for row in db.execute(sql, values):
        rows.append(row)
        size += len(row[-1])
        if size >= BYTES:  # SQLite's rows are read one by one
            break
    return rows


def _exported(ident: str, *row: Any) -> Exported:
    *plain, sources, recovery, payload = row
    how = columns.recovery(recovery)
    recovered = (None, [], []) if how is None else (how.by, how.unknown, how.redacted)
    values: list[Any] = [ident, *plain, (sources or "").split(), *recovered, payload]
    return Exported(*values)
