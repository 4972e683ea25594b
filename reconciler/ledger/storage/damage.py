"""Notes in the ledger about damage to its own file, for the next start. The caller holds the transaction."""

from __future__ import annotations

from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database

_MET = "damage"
_BEYOND_REPAIR = "damage beyond repair"


def note_damage(db: Database, what: str) -> None:
    """Note that the file is damaged, so that the next start checks it."""
    meta.put(db, _MET, what)


def is_noted(db: Database) -> bool:
    """Whether damage was met and nothing has checked the file since."""
    return meta.get(db, _MET) is not None


def note_beyond_repair(db: Database, why: str) -> None:
    """Note that the damage can't be repaired, so that not every start tries again: a repair takes long."""
    meta.put(db, _BEYOND_REPAIR, why)


def beyond_repair(db: Database) -> str | None:
    """Why a repair failed; None if none was tried, or the last one succeeded."""
    return meta.get(db, _BEYOND_REPAIR)


def forget_damage(db: Database) -> None:
    """Remove these notes, after the file was repaired or found to be intact."""
    meta.delete(db, _MET, _BEYOND_REPAIR)
