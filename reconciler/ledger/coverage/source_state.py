"""The state of each source of each project: since when it is watched, and what keeps it from being read.

What a watched source has not read completely is a gap.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.events.troubles import SWITCHED_OFF
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import IS_TIME, UNREAD
from reconciler.ledger.storage.sql import filled_in


class SourceState(msgspec.Struct, frozen=True):
    """One source of one project. `trouble` is a word from `sources.errors`, and `error` says more. Both are None if
    the source can be read.
    """

    project_id: int
    source: str
    watched_since: Millis
    watched_until: Millis | None
    last_read_at: Millis | None
    trouble: str | None
    error: str | None


_SELECT = """
    SELECT project_id, source, watched_since, watched_until, last_read_at, trouble, error FROM sources
"""

COVERED_THROUGH = filled_in(
    """
    WITH read AS (
        SELECT project_id, trouble IS NULL AS fine,
               (SELECT covered_through FROM coverage c WHERE c.project_id = s.project_id AND c.source = s.source
                   AND covered_through {} ORDER BY covered_from DESC LIMIT 1) AS through
          FROM sources s WHERE watched_until IS NULL
    )
    SELECT project_id,
           CASE WHEN count(*) FILTER (WHERE fine) = 0 THEN min(through)
                WHEN count(*) FILTER (WHERE fine) = count(through) FILTER (WHERE fine)
                THEN min(through) FILTER (WHERE fine) END
      FROM read GROUP BY project_id
    """,
    IS_TIME,
)


def covered_through(db: Database) -> dict[int, str | None]:
    """Up to when all readable sources of each project have been read. If none can be read now, up to when they were.

    None if a readable source has not been read yet.
    """
    return dict(db.execute(COVERED_THROUGH).fetchall())


def watched_since(db: Database, project_id: int, source: str) -> Millis | None:
    """From when on a source is watched; None if it is not."""
    found = source_state(db, project_id, source)
    return None if found is None or found.watched_until is not None else found.watched_since


def watched_sources(db: Database, project_id: int) -> set[str]:
    """The sources of a project that are watched now."""
    rows = db.execute("SELECT source FROM sources WHERE project_id = ? AND watched_until IS NULL", (project_id,))
    return {source for (source,) in rows}


def source_state(db: Database, project_id: int, source: str) -> SourceState | None:
    """The state of one source; None before its first poll."""
    row = db.execute(f"{_SELECT} WHERE project_id = ? AND source = ?", (project_id, source)).fetchone()
    return None if row is None else _state(row)


def source_troubles(db: Database) -> dict[int, dict[str, str]]:
    """What keeps sources from being read: troubles by source, by project."""
    found: dict[int, dict[str, str]] = {}
    rows = db.execute(
        f"SELECT project_id, source, trouble FROM sources WHERE {UNREAD} AND trouble IS NOT NULL "
        "ORDER BY project_id, source"
    )
    for project_id, source, trouble in rows:
        found.setdefault(project_id, {})[source] = trouble
    return found


def switched_off(db: Database) -> dict[int, list[str]]:
    """The sources of each project that have nothing to read, because that is switched off in the project."""
    found: dict[int, list[str]] = {}
    for project_id, some in source_troubles(db).items():
        if off := [source for source, trouble in some.items() if trouble == SWITCHED_OFF]:
            found[project_id] = off
    return found


def watch(db: Database, project_id: int, source: str, since: Millis) -> None:
    """Watch a source from `since` on. Nothing changes if it is watched already."""
    db.execute(
        """
        INSERT INTO sources (project_id, source, watched_since) VALUES (?1, ?2, ?3)
        ON CONFLICT (project_id, source) DO UPDATE SET watched_since = excluded.watched_since, watched_until = NULL
         WHERE sources.watched_until IS NOT NULL
        """,
        (project_id, source, times.iso(since)),
    )


def unwatch(db: Database, project_id: int, *, keep: Iterable[str] = (), until: Millis) -> None:
    """Watch a project's sources until `until` only, except those to keep."""
    kept = list(keep)
    others = f"AND source NOT IN ({','.join('?' * len(kept))})" if kept else ""
    db.execute(
        f"UPDATE sources SET watched_until = ? WHERE project_id = ? AND watched_until IS NULL {others}",
        (times.iso(until), project_id, *kept),
    )


def note_read(db: Database, project_id: int, source: str, now: Millis) -> None:
    """A source was read without trouble."""
    db.execute(
        """
        UPDATE sources SET last_read_at = ?, trouble = NULL, error = NULL, trouble_since = NULL
         WHERE project_id = ? AND source = ?
        """,
        (times.iso(now), project_id, source),
    )


def note_trouble(db: Database, project_id: int, source: str, trouble: str, error: str, now: Millis) -> None:
    """A source can't be read.

    "Switched off" begins when it is first seen: if the source was refused for another reason before, that time was
    not read. If it is so at the first reading, it was so from the start.
    """
    db.execute(
        """
        UPDATE sources SET trouble = :trouble, error = :error,
               trouble_since = CASE
                   WHEN (coalesce(trouble, '') = :off) = (:trouble = :off) THEN coalesce(trouble_since, :now)
                   WHEN trouble IS NULL AND last_read_at IS NULL THEN watched_since
                   ELSE :now END
         WHERE project_id = :project AND source = :source
        """,
        {"trouble": trouble, "error": error, "off": SWITCHED_OFF, "now": times.iso(now), "project": project_id,
         "source": source},
    )  # fmt: skip


def _state(row: tuple[int, str, str, str | None, str | None, str | None, str | None]) -> SourceState:
    project_id, source, since, until, read_at, trouble, error = row
    return SourceState(
        project_id,
        source,
        times.from_iso(since),
        times.written(until),
        times.written(read_at),
        trouble,
        error,
    )
