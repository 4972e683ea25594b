"""What a ledger remembers of damage to its file, for the next start. Who changes it holds a transaction."""

from __future__ import annotations

from sqlite_utils import Database

_MET = "damage"
_BEYOND_REPAIR = "damage beyond repair"


def note_damage(db: Database, what: str) -> None:
    """Remember that the file is damaged: the next start looks into it."""
    db.conn.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_MET, what))


def is_noted(db: Database) -> bool:
    """Whether damage was met that nobody has looked into."""
    return db.conn.execute("SELECT 1 FROM meta WHERE name = ?", (_MET,)).fetchone() is not None


def note_beyond_repair(db: Database, why: str) -> None:
    """Remember that the damage can't be repaired: to try again takes long, and each start would."""
    db.conn.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_BEYOND_REPAIR, why))


def beyond_repair(db: Database) -> str | None:
    """Why a repair that was tried could not be done; None where none was tried, or it could."""
    row = db.conn.execute("SELECT value FROM meta WHERE name = ?", (_BEYOND_REPAIR,)).fetchone()
    return None if row is None else str(row[0])


def forget_damage(db: Database) -> None:
    """Remove what is noted, after the file was repaired or found to be sound."""
    db.conn.execute("DELETE FROM meta WHERE name IN (?, ?)", (_MET, _BEYOND_REPAIR))
