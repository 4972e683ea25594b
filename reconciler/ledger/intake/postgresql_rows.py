"""The rows of the intake in PostgreSQL, for whoever has a connection to the ledger."""

from __future__ import annotations

from reconciler.ledger.recording.place import Progress
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database

COUNTED = 1000
"""So many webhooks that wait are counted one by one. Of more, the positions say about how many they are."""

LAST = """
    SELECT coalesce((SELECT max(position) FROM intake),
                    (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM intake_position_seq))
"""
FIRST = "SELECT received_at FROM intake WHERE position > ? ORDER BY position LIMIT 1"
COUNT = "SELECT count(*) FROM (SELECT 1 FROM intake WHERE position > ? LIMIT ?) AS waiting"


def intake_id(db: Database) -> str:
    """The intake is the ledger's own, so it has the same id."""
    return meta.get(db, "ledger_id") or ""


def last_position(db: Database) -> int:
    """The position of the last webhook that was appended. If all are removed, one that was only tried may count."""
    last: int = db.execute(LAST).fetchone()[0]
    return last


def first_received(db: Database, after: int) -> str | None:
    """When the first webhook after a position came; None if there is none."""
    row = db.execute(FIRST, (after,)).fetchone()
    return None if row is None else str(row[0])


def waiting(db: Database, known: Progress) -> int:
    """How many webhooks are not recorded yet. A position that was tried in vain is no webhook."""
    counted: int = db.execute(COUNT, (known.through, COUNTED)).fetchone()[0]
    if counted == COUNTED:
        return known.waiting(max(last_position(db), known.through + COUNTED))
    return known.waiting(known.through + counted)
