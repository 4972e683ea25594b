"""A few counts of the whole ledger."""

from __future__ import annotations

import msgspec

from reconciler.events.sighting import OWN_KINDS
from reconciler.ledger.storage.database import Database


class Figures(msgspec.Struct, frozen=True):
    """Counts of the whole ledger. Each is a full scan, so this is for small ledgers.

    `by_webhook` events were reported by a webhook, `by_api` events by GitLab's API only (which includes its hook
    log). `repeats` are webhook deliveries of an event that was known already. `delivered_records` are the Events
    API's ids of what every destination has accepted.
    """

    events: int = 0
    by_webhook: int = 0
    by_api: int = 0
    repeats: int = 0
    delivered_records: frozenset[str] = frozenset()


def figures(db: Database) -> Figures:
    """Count."""
    by_webhook, deliveries = db.execute(
        """
        SELECT count(DISTINCT event_id), count(*) FROM sightings
         WHERE source LIKE 'webhook:%' AND recovery IS NULL AND kind NOT IN (?, ?)
        """,
        OWN_KINDS,
    ).fetchone()
    events = db.execute("SELECT count(*) FROM events WHERE kind NOT IN (?, ?)", OWN_KINDS).fetchone()[0]
    delivered = db.execute(
        """
        SELECT source_id FROM sightings s WHERE source = 'project_events'
           AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = s.event_id AND d.state <> 'delivered')
        """
    ).fetchall()
    return Figures(
        events, by_webhook, events - by_webhook, deliveries - by_webhook, frozenset(ident for (ident,) in delivered)
    )
