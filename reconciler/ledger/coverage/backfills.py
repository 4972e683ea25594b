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


def note(db: Database, ident: str, record: dict[str, Any]) -> None:
    """Note a backfill, inside the open transaction. Only the latest ones are kept."""
    found = _found(db)
    found[ident] = record
    oldest = sorted(found, key=lambda one: str(found[one].get("started_at")))[:-KEPT]
    meta.put(db, _PREFIX + ident, fields.as_json(record))
    meta.delete(db, *(_PREFIX + one for one in oldest if one != ident))


def interrupt(db: Database, *, now: Millis) -> None:
    """Note, inside the open transaction, that none is running any more."""
    for ident, record in _found(db).items():
        if record.get("state") == "running":
            ended = record | {"state": "interrupted", "finished_at": times.iso(now)}
            meta.put(db, _PREFIX + ident, fields.as_json(ended))


def find(db: Database, ident: str) -> dict[str, Any] | None:
    """A backfill as it was last noted."""
    return _found(db).get(ident)


def _found(db: Database) -> dict[str, dict[str, Any]]:
    kept = {ident: fields.parsed(text) for ident, text in meta.with_prefix(db, _PREFIX).items()}
    return {ident: record for ident, record in kept.items() if isinstance(record, dict)}
