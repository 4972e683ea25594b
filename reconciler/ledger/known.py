"""What the ledger has heard of: whether a word that a filter names may let something through."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from sqlite_utils import Database

from reconciler.events.webhooks import KIND_OF

PROJECTS = "SELECT id, path FROM projects"
HEARD = "SELECT EXISTS (SELECT 1 FROM search WHERE search MATCH ?)"


def projects(db: Database) -> list[tuple[int, str | None]]:
    """Every project that was heard of: its id, and its path where that is known."""
    return [(ident, path) for ident, path in db.conn.execute(PROJECTS)]


def heard(db: Database, words: Iterable[str]) -> set[str]:
    """Which of these kinds and actions the index for searching has seen of events; none where it can't be read."""
    return {word for word in words if _heard(db, word)}


def _heard(db: Database, word: str) -> bool:
    quoted = word.replace("\0", " ").replace('"', '""')
    try:
        return bool(db.conn.execute(HEARD, (f'kind : "{quoted}"',)).fetchone()[0])
    except sqlite3.Error:
        return False


def has_project(db: Database, name: int | str) -> bool:
    """Whether a project of this id or path was heard of."""
    if isinstance(name, str):
        return _is_there(db, "SELECT 1 FROM projects WHERE path = ?", name)
    return _is_there(
        db, "SELECT 1 FROM projects WHERE id = ?1 UNION ALL SELECT 1 FROM events WHERE project_id = ?1", name
    )


def has_kind(db: Database, kind: str) -> bool:
    """Whether there is an event of this kind, or of this `event_name`."""
    if kind in KIND_OF and _is_there(db, "SELECT 1 FROM sightings WHERE action = ?", kind):
        return True
    return _is_there(db, "SELECT 1 FROM events WHERE kind = ?", kind)


def sources(db: Database) -> list[str]:
    """Every source that told something. It looks at all sightings."""
    return [name for (name,) in db.conn.execute("SELECT DISTINCT source FROM sightings ORDER BY source")]


def _is_there(db: Database, sql: str, value: int | str) -> bool:
    return bool(db.conn.execute(f"SELECT EXISTS ({sql})", (value,)).fetchone()[0])
