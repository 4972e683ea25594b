"""Opening deliveries, of new events and of recorded ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import msgspec
import orjson

from reconciler.events.sighting import Summary
from reconciler.ledger.queue import known
from reconciler.ledger.queue.routes import Candidate, NewDelivery
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql, filled_in

_OPEN = """
    INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at, finished_at,
                            last_error)
    VALUES (?1, ?2, CASE WHEN CAST(?5 AS TEXT) IS NULL THEN 'pending' ELSE 'dead' END, ?3, ?4, ?4,
            CASE WHEN CAST(?5 AS TEXT) IS NOT NULL THEN ?4 END, ?5)
    ON CONFLICT DO NOTHING
"""
_CANDIDATES = filled_in(
    """
    SELECT s.id, s.source, s.kind, s.action, s.project_id, s.project_path, s.author, s.title, s.ref, s.object
      FROM {asked}
    """,
    asked=Sql(
        "json_each(?) AS asked CROSS JOIN sightings AS s ON s.id = asked.value",
        postgresql="""
        jsonb_array_elements_text(?::jsonb) AS asked (value)
        CROSS JOIN LATERAL (SELECT * FROM sightings AS s WHERE s.id = asked.value::bigint OFFSET 0) AS s
        """,
    ),
)


class Opened(msgspec.Struct, frozen=True):
    """A delivery was opened for this destination."""

    destination_id: int


def open_deliveries(db: Database, new: Sequence[NewDelivery], at: str) -> list[Opened]:
    """Open deliveries inside the open transaction. One that exists already does not change."""
    db.executemany(_OPEN, [(d.event_id, d.destination_id, d.lane, at, d.error) for d in new])
    return [Opened(d.destination_id) for d in new if d.error is None]


def candidates_of(db: Database, sighting_ids: Sequence[int]) -> Iterator[tuple[int, Candidate]]:
    """Recorded sightings as filters see them, each with the sighting's id, in this order."""
    rows = db.execute(_CANDIDATES, (orjson.dumps(sighting_ids).decode(),)).fetchall()
    place = {ident: number for number, ident in enumerate(sighting_ids)}
    for ident, source, *about in sorted(rows, key=lambda row: place[row[0]]):
        summary = Summary(*about)
        others = partial(known.paths, db, summary.project_id)
        yield ident, Candidate(summary, source, partial(_payload, db, ident), others)


def _payload(db: Database, sighting_id: int) -> str:
    payload: str = db.execute("SELECT payload FROM sightings WHERE id = ?", (sighting_id,)).fetchone()[0]
    return payload
