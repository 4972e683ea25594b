"""What the ledger has heard of: whether a word that a filter names may let something through."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from sqlite_utils import Database

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
