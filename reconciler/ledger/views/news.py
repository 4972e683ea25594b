"""Events in the order in which they were recorded, for those who follow them: none is left out, none comes twice."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import EACH_INTEGER, filled_in
from reconciler.ledger.views import browse, search
from reconciler.ledger.views.browse import Filter

EVENTS_A_LOOK = 100
"""The most events that one look returns."""
IDS_A_LOOK = 2000
"""The most events that one look compares with a filter: one that matches little must not hold up a thread."""


class News(msgspec.Struct, frozen=True):
    """Events that are new to a follower. `through` is the id up to which it has seen all that it asked for. `more`:
    there may be more already.
    """

    events: list[dict[str, Any]]
    through: int
    more: bool = False


def news(db: Database, wanted: Filter, words: str | None, *, after: int) -> News:
    """The next events that match a filter, and contain all these words if any are given (see `search.terms`). With
    words, events are seen once they are in the search index.

    Ids are given and committed in the same order, so that no event can appear later below one that was seen.
    """
    newest = browse.last_id(db) if words is None else search.indexed_through(db)
    first = browse.next_id(db, after)
    if first is None or first > newest:
        return News([], after)
    through = min(newest, first + IDS_A_LOOK)
    if words is None:
        rows = browse.after(db, wanted, event_id=after, through=through, limit=EVENTS_A_LOOK)
    else:
        rows = _with_words(db, wanted, words, after, through)
    if len(rows) == EVENTS_A_LOOK:
        through = rows[-1]["id"]
    return News(rows, through, more=through < newest)


def _with_words(db: Database, wanted: Filter, words: str, after: int, through: int) -> list[dict[str, Any]]:
    ids = search.matching_between(db, words, after=after, through=through)
    if not ids:
        return []
    where, values = wanted.where()
    sql = filled_in("{}{} AND e.id IN ({}) ORDER BY e.id LIMIT ?", browse.LIST, where, EACH_INTEGER)
    return list(db.query(sql, [*values, orjson.dumps(ids).decode(), EVENTS_A_LOOK]))
