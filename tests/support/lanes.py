"""The table of lanes, and what it must say."""

from __future__ import annotations

from typing import Any

from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN


def lanes(db: Database) -> list[tuple[Any, ...]]:
    """What the table of lanes says: each lane's head, and when that is due."""
    return db.execute("SELECT destination_id, lane, event_id, due_at FROM lanes ORDER BY 1, 2").fetchall()


def heads_of_lanes(db: Database) -> list[tuple[Any, ...]]:
    """The same, found without that table."""
    sql = f"""
        SELECT d.destination_id, d.lane, d.event_id, CASE WHEN d.state = 'retrying' THEN d.next_attempt_at END
          FROM (SELECT destination_id, lane, min(event_id) AS event_id FROM deliveries WHERE {OPEN}
                 GROUP BY destination_id, lane) AS heads
          JOIN deliveries AS d ON d.event_id = heads.event_id AND d.destination_id = heads.destination_id
         ORDER BY 1, 2
    """
    return db.execute(sql).fetchall()
