"""What the config names (GitLab itself, groups, projects) and the projects below groups, and whether it can be read.

A name is here as soon as a service has accepted its config, so that a name that could never be read is known too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.coverage import source_state
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql, filled_in

Kind = Literal["gitlab", "group", "project", "member"]
"""A member is a project below a group."""


class Name(msgspec.Struct, frozen=True):
    """Something that the config names, with its name in the config."""

    kind: Kind
    name: str


class Watched(msgspec.Struct, frozen=True):
    """A name, and whether it can be read. Times are ISO 8601 text, as stored.

    `since` is when the config first named it. `trouble` and `error` are as for sources. `path` is a project's path,
    if it is known. `own_since` is since when the trouble is its own; None while nothing can be read from this GitLab.
    """

    kind: Kind
    name: str
    below: str
    project_id: int | None
    path: str | None
    since: str
    read_at: str | None
    trouble: str | None
    error: str | None
    trouble_since: str | None
    own_since: str | None


def _where(clause: str, names: Sql) -> tuple[Sql, Sql]:
    """The project ids of rows that a clause names by a JSON list, and the statement that deletes these rows."""
    return (
        filled_in(f"SELECT project_id FROM watched WHERE {clause}", names),
        filled_in(f"DELETE FROM watched WHERE {clause}", names),
    )


_TEXTS = Sql("SELECT value FROM json_each(?2)", postgresql="SELECT json_array_elements_text(CAST(?2 AS json))")
_PAIRS = Sql(
    "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?1)",
    postgresql="SELECT value ->> 0, value ->> 1 FROM json_array_elements(CAST(?1 AS json))",
)
_NOT_NAMED, _DROP_NOT_NAMED = _where("kind <> 'member' AND (kind, name) NOT IN ({})", _PAIRS)
_ORPHANS, _DROP_ORPHANS = _where("kind = ?1 AND below NOT IN ({})", _TEXTS)
_LEFT, _DROP_LEFT = _where("kind = 'member' AND below = ?1 AND name NOT IN ({})", _TEXTS)
_NO_TROUBLE = "trouble = NULL, error = NULL, trouble_since = NULL, own_since = NULL"
_FINE = f"read_at = ?, {_NO_TROUBLE}"


def watched(db: Database) -> list[Watched]:
    """Everything that is watched: GitLab first, then groups, projects and members, each by name.

    A member that the config names too is listed as a project only.
    """
    rows = db.execute(
        """
        SELECT w.kind, w.name, w.below, w.project_id, p.path, w.since, w.read_at, w.trouble, w.error, w.trouble_since,
               w.own_since
          FROM watched w LEFT JOIN projects p ON p.id = w.project_id
         WHERE w.kind <> 'member'
            OR NOT EXISTS (SELECT 1 FROM watched n WHERE n.project_id = w.project_id AND n.kind = 'project')
         ORDER BY CASE w.kind WHEN 'gitlab' THEN 0 WHEN 'group' THEN 1 WHEN 'project' THEN 2 ELSE 3 END,
                  w.below, w.name
        """
    )
    return [Watched(*row) for row in rows.fetchall()]


def sync(db: Database, names: Iterable[Name], now: Millis) -> None:
    """Watch these names and no others. The sources of a project that is no longer watched leave no new gaps."""
    names = list(names)
    asked = msgspec.json.encode([[one.kind, one.name] for one in names]).decode()
    groups = msgspec.json.encode([one.name for one in names if one.kind == "group"]).decode()
    gone = db.execute(_NOT_NAMED, (asked,)).fetchall()
    db.execute(_DROP_NOT_NAMED, (asked,))
    gone += db.execute(_ORPHANS, ("member", groups)).fetchall()
    db.execute(_DROP_ORPHANS, ("member", groups))
    db.executemany(
        "INSERT INTO watched (kind, name, below, since) VALUES (?, ?, '', ?) ON CONFLICT DO NOTHING",
        [(one.kind, one.name, times.iso(now)) for one in names],
    )
    _let_go(db, [ident for (ident,) in gone if ident is not None], now)


def members(db: Database, group: str) -> dict[int, str | None]:
    """The projects below a group when it was last read: their paths by id."""
    rows = db.execute(
        """
        SELECT w.project_id, p.path FROM watched w LEFT JOIN projects p ON p.id = w.project_id
         WHERE w.kind = 'member' AND w.below = ?
        """,
        (group,),
    )
    return dict(rows.fetchall())


def add_members(db: Database, group: str, paths: Mapping[int, str | None], now: Millis) -> None:
    """Also watch these projects below a group."""
    db.executemany(
        "INSERT INTO watched (kind, name, below, project_id, since) VALUES ('member', ?1, ?2, ?3, ?4) "
        "ON CONFLICT DO NOTHING",
        [(str(ident), group, ident, times.iso(now)) for ident in paths],
    )
    db.executemany(
        "INSERT INTO projects (id, path) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET path = excluded.path "
        "WHERE projects.path IS NULL OR projects.path <> excluded.path",
        [(ident, path) for ident, path in paths.items() if path is not None],
    )


def keep_members(db: Database, group: str, idents: Iterable[int], now: Millis) -> None:
    """Watch no other projects below a group than these."""
    kept = msgspec.json.encode([str(ident) for ident in idents]).decode()
    gone = db.execute(_LEFT, (group, kept)).fetchall()
    db.execute(_DROP_LEFT, (group, kept))
    _let_go(db, [ident for (ident,) in gone], now)


def note_found(db: Database, one: Name, project_id: int) -> None:
    """GitLab has said which project, or which group (its id negated), a name stands for."""
    db.execute(
        "UPDATE watched SET project_id = ?1 "
        "WHERE kind = ?2 AND name = ?3 AND (project_id IS NULL OR project_id <> ?1)",
        (project_id, one.kind, one.name),
    )


def note_read(db: Database, one: Name, now: Millis, *, answered: bool = True) -> str | None:
    """It was read. `answered`: GitLab was asked for it, and answered.

    Returns since when it could not be read; None if it could.
    """
    at = times.iso(now)
    row = db.execute(
        "SELECT trouble_since FROM watched WHERE kind = ? AND name = ? AND trouble IS NOT NULL", (one.kind, one.name)
    ).fetchone()
    db.execute(f"UPDATE watched SET {_FINE} WHERE kind = ? AND name = ?", (at, one.kind, one.name))
    if answered:
        note_answer(db, now)
    return None if row is None else str(row[0])


def note_answer(db: Database, now: Millis) -> None:
    """GitLab answers: from now on, what can't be read has a trouble of its own."""
    db.execute(f"UPDATE watched SET {_FINE} WHERE kind = 'gitlab'", (times.iso(now),))
    db.execute("UPDATE watched SET own_since = ? WHERE trouble IS NOT NULL AND own_since IS NULL", (times.iso(now),))


def note_trouble(db: Database, one: Name, trouble: str, error: str, now: Millis, *, by_gitlab: bool = False) -> None:
    """It can't be read. `by_gitlab`: nothing can be read from this GitLab. A trouble of its own stays one."""
    at = times.iso(now)
    db.execute(
        """
        UPDATE watched SET trouble = ?, error = ?, trouble_since = coalesce(trouble_since, ?),
                           own_since = coalesce(own_since, ?)
         WHERE kind = ? AND name = ?
        """,
        (trouble, error, at, None if by_gitlab else at, one.kind, one.name),
    )


def _let_go(db: Database, idents: Iterable[int], now: Millis) -> None:
    """Stop watching the sources of these projects, unless another name still stands for them."""
    for ident in idents:
        if db.execute("SELECT 1 FROM watched WHERE project_id = ?", (ident,)).fetchone() is None:
            source_state.unwatch(db, ident, until=now)
