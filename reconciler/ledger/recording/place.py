"""How far the intake was recorded. It is noted in the transaction that records. The caller holds the transaction."""

from __future__ import annotations

from sqlite_utils import Database

from reconciler.ledger.intake.intake import Place
from reconciler.ledger.storage import meta

_NAME = "intake"


def place(db: Database) -> Place | None:
    """How far which intake was recorded; None if nothing was recorded from one."""
    intake_id, _, position = (meta.get(db, _NAME) or "").partition(" ")
    return Place(intake_id, int(position)) if position.isdecimal() else None


def note_place(db: Database, place: Place) -> None:
    """An intake was recorded up to and with this position."""
    meta.put(db, _NAME, f"{place.intake_id} {place.position}")
