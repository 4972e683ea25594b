"""Lists of events for people, with any filter: a page looks at a bounded part of the ledger, and the next one goes on
from there.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from reconciler.events.webhooks import KIND_OF
from reconciler.ledger.queue.destinations import destination_states
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN
from reconciler.ledger.storage.sql import filled_in
from reconciler.ledger.views import browse, search
from reconciler.ledger.views.browse import FAR, LIST, Filter, Place

EVENTS_LOOKED_AT = 20_000
"""How many events a page without words looks at, if no index finds those that match."""
FOUND_LOOKED_AT = 6000
"""How many events that a search finds are compared with a filter."""
_A_STEP = 300
NEWEST = {
    "dead": "SELECT max(event_id) FROM deliveries WHERE destination_id = ? AND state = 'dead' AND event_id < ?",
    **{
        state: f"SELECT max(event_id) FROM deliveries WHERE destination_id = ? AND {OPEN} AND state = '{state}' "
        "AND event_id < ?"
        for state in ("pending", "retrying")
    },
}
"""The newest delivery in a state that few are in."""


class Listed(msgspec.Struct, frozen=True):
    """A page of events. `next` is where the next one begins; None on the last one. `is_partial`: there may be more
    that match, but so many events were looked at.
    """

    events: list[dict[str, Any]]
    next: Place | None = None
    is_partial: bool = False


def listed(db: Database, wanted: Filter, words: str, *, limit: int, before: Place | None) -> Listed:
    """The next events that match a filter and contain these words, newest first: by when they happened if the filter
    has times and there are no words, otherwise by when they were recorded.
    """
    if wanted.author is not None and re.search(r"\w", wanted.author):  # the index of words finds authors
        quoted = wanted.author.replace('"', " ")
        words = f'{words} author:"{quoted}"'
    if words.strip():
        return _searched(db, wanted, words, limit=limit, before=FAR if before is None else before.event_id)
    if wanted.delivery in NEWEST and not wanted.has_times:
        newest = _newest(db, wanted, FAR if before is None else before.event_id)
        if newest is None:
            return Listed([])
        before = Place(newest + 1)
    by_index = _by_index(wanted)
    end = None
    if wanted != by_index:
        end = browse.end_of_look(db, by_index, before=before, events=EVENTS_LOOKED_AT)
    rows = browse.page(db, wanted, limit=limit + 1, before=before, through=end)
    if len(rows) > limit:
        return Listed(rows[:limit], browse.place_of(wanted, rows[limit - 1]))
    return Listed(rows, end, is_partial=end is not None)


def _searched(db: Database, wanted: Filter, words: str, *, limit: int, before: int) -> Listed:
    where, values = wanted.where()
    rows: list[dict[str, Any]] = []
    for _ in range(FOUND_LOOKED_AT // _A_STEP):
        ids = search.matching(db, words, before=before, limit=_A_STEP)
        if not ids:
            return Listed(rows)
        sql = filled_in("{}{} AND e.id IN ({}) ORDER BY e.id DESC LIMIT ?", LIST, where, ",".join("?" * len(ids)))
        rows += db.query(sql, [*values, *ids, limit + 1 - len(rows)])
        if len(rows) > limit:
            return Listed(rows[:limit], Place(rows[limit - 1]["id"]))
        before = ids[-1]
    return Listed(rows, Place(before), is_partial=True)


def _by_index(wanted: Filter) -> Filter:
    """The part of a filter that one index finds in the order of the list."""
    if wanted.has_times:
        return Filter(since=wanted.since, until=wanted.until)
    if wanted.project is not None:
        return Filter(project=wanted.project)
    return Filter() if wanted.kind in KIND_OF else Filter(kind=wanted.kind)


def _newest(db: Database, wanted: Filter, before: int) -> int | None:
    """The newest event with a delivery in a state."""
    sql = NEWEST[wanted.delivery or ""]
    ids = [one.id for one in destination_states(db) if wanted.destination in (None, one.name)]
    found = (db.execute(sql, (ident, before)).fetchone()[0] for ident in ids)
    return max((one for one in found if one is not None), default=None)
