"""Deliveries of past events, for a new destination that starts in the past. They are opened in parts.

The ledger keeps how far this is, so that a kill in between loses nothing and opens nothing twice.
"""

from __future__ import annotations

from reconciler.events.times import Millis, iso
from reconciler.ledger.queue.opening import Opened, candidates_of, open_deliveries
from reconciler.ledger.queue.routes import Route, delivery
from reconciler.ledger.storage.database import Database

EVENTS_A_STEP = 500
"""Short transactions: the receiver writes between them."""

_PART = """
    SELECT id, sighting_id, merged_into IS NULL AND (CAST(?1 AS TEXT) IS NULL OR happened_at >= ?1)
      FROM events WHERE id > ?2 AND id <= ?3 ORDER BY id LIMIT ?4
"""


def open_past_deliveries(db: Database, route: Route, *, now: Millis) -> list[Opened] | None:
    """Open the next deliveries of past events, inside the open transaction; None when all of them are open."""
    row = db.execute(
        "SELECT fill_from, fill_after, fill_through FROM destinations WHERE id = ? AND fill_after IS NOT NULL",
        (route.destination_id,),
    ).fetchone()
    if row is None:
        return None
    events = db.execute(_PART, (*row, EVENTS_A_STEP)).fetchall()
    if not events:
        db.execute("UPDATE destinations SET fill_after = NULL WHERE id = ?", (route.destination_id,))
        return None
    wanted = {sighting_id: event_id for event_id, sighting_id, in_range in events if in_range}
    found = [delivery(route, wanted[ident], one) for ident, one in candidates_of(db, list(wanted))]
    opened = open_deliveries(db, [one for one in found if one is not None], iso(now))
    db.execute("UPDATE destinations SET fill_after = ? WHERE id = ?", (events[-1][0], route.destination_id))
    return opened
