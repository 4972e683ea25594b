"""Backfills that a service was asked for: what each was asked and what became of it, as the API shows it.

They run in the worker and do not outlive it. So one that is noted as running when a worker begins was interrupted.
"""

from __future__ import annotations

from typing import Any

from reconciler.events import fields, times
from reconciler.events.times import Millis
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database

KEPT = 20
_PREFIX = "backfill:"
_RUNNING = "backfill_running"
"""Names the one that is running."""


def note(db: Database, ident: str, record: dict[str, Any]) -> None:
    """Note a backfill, inside the open transaction. Only the latest are kept: their IDs sort by when they began."""
    if record["state"] == "running":
        _end_running(db, at=record["started_at"])  # one at a time: the end of the one before could not be noted
        meta.put(db, _RUNNING, ident)
    elif meta.get(db, _RUNNING) == ident:
        meta.delete(db, _RUNNING)
    meta.put(db, _PREFIX + ident, fields.as_json(record))
    meta.delete(db, *(_PREFIX + one for one in meta.names(db, _PREFIX)[:-KEPT]))


def interrupt(db: Database, *, now: Millis) -> None:
    """Note, inside the open transaction, that none is running any more."""
    _end_running(db, at=times.iso(now))


def find(db: Database, ident: str) -> dict[str, Any] | None:
    """A backfill as it was last noted."""
    text = meta.get(db, _PREFIX + ident)
    record = None if text is None else fields.parsed(text)
    return record if isinstance(record, dict) else None


def _end_running(db: Database, *, at: str) -> None:
    if (ident := meta.get(db, _RUNNING)) is None:
        return
    if (record := find(db, ident)) is not None:
        ended = record | {"state": "interrupted", "finished_at": at}
        meta.put(db, _PREFIX + ident, fields.as_json(ended))
    meta.delete(db, _RUNNING)
