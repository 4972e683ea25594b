"""Which projects, kinds and sources the ledger knows: whether a filter that names one can match anything."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from reconciler.events.webhooks import KIND_OF
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import filled_in
from reconciler.ledger.views.words import FIND, Term, asked_for

PATH_BYTES = 2000
"""GitLab's paths are shorter. An index of PostgreSQL takes no more than 2.7 kB."""
PROJECTS = "SELECT id, path FROM projects"
FORMER = "SELECT f.path, p.id, p.path FROM former_paths f JOIN projects p ON p.id = f.project_id ORDER BY f.path"
PATHS_OF = """
    SELECT path COLLATE nocase FROM former_paths WHERE project_id = ?1
     UNION SELECT path COLLATE nocase FROM projects WHERE id = ?1 AND path IS NOT NULL
"""
PROJECT_OF_PATH = """coalesce(
    (SELECT id FROM projects WHERE path = ? COLLATE nocase LIMIT 1),
    (SELECT project_id FROM former_paths WHERE path = ? LIMIT 1))"""
"""GitLab's paths ignore case, and redirect from the former path of a renamed project."""
HEARD = filled_in("SELECT EXISTS ({})", FIND)


def projects(db: Database) -> list[tuple[int, str | None]]:
    """Every known project: its id, and its path if that is known."""
    return [(ident, path) for ident, path in db.execute(PROJECTS)]


class Renamed(NamedTuple):
    """A former path of a project, its id, and its present path."""

    path: str
    project_id: int
    now: str | None


def renamed(db: Database) -> list[Renamed]:
    """The former paths of projects that were renamed or moved, if no other project has that path now."""
    return [Renamed(*row) for row in db.execute(FORMER)]


def renames(db: Database) -> int:
    """The number of former paths."""
    count: int = db.execute("SELECT count(*) FROM former_paths").fetchone()[0]
    return count


def paths(db: Database, project_id: int | None) -> list[str]:
    """The present and former paths of a project: a report may use any of them."""
    return [] if project_id is None else [path for (path,) in db.execute(PATHS_OF, (project_id,))]


def note_former(db: Database, project_id: int, path: str) -> None:
    """Note a former path, from which GitLab redirects to the project. One that no index takes is not known."""
    if len(path.encode("utf-8", "surrogatepass")) > PATH_BYTES:
        return
    db.execute("INSERT INTO former_paths (project_id, path) VALUES (?, ?) ON CONFLICT DO NOTHING", (project_id, path))


def heard(db: Database, words: Iterable[str]) -> set[str]:
    """Which of these kinds and actions have been heard of; none if the search index can't be read."""
    return {word for word in words if _heard(db, word)}


def _heard(db: Database, word: str) -> bool:
    asked = [Term(word.replace("\0", " "), "kind", is_beginning=False)]
    try:
        return bool(db.execute(HEARD, asked_for(asked, before=1 << 62, limit=1)).fetchone()[0])
    except sqlite3.Error:
        return False


def has_project(db: Database, name: int | str) -> bool:
    """Whether a project with this id or path is known. A former path counts, and case does not matter."""
    if isinstance(name, str):
        return db.execute(f"SELECT {PROJECT_OF_PATH}", (name, name)).fetchone()[0] is not None
    return _is_there(
        db, "SELECT 1 FROM projects WHERE id = ?1 UNION ALL SELECT 1 FROM events WHERE project_id = ?1", name
    )


def has_kind(db: Database, kind: str) -> bool:
    """Whether there is an event of this kind, or with this `event_name`."""
    if kind in KIND_OF and _is_there(db, "SELECT 1 FROM sightings WHERE action = ?", kind):
        return True
    return _is_there(db, "SELECT 1 FROM events WHERE kind = ?", kind)


def sources(db: Database) -> list[str]:
    """Every source that has reported something. It looks at all sightings."""
    return [name for (name,) in db.execute("SELECT DISTINCT source FROM sightings ORDER BY source")]


def _is_there(db: Database, sql: str, value: int | str) -> bool:
    return bool(db.execute(f"SELECT EXISTS ({sql})", (value,)).fetchone()[0])
