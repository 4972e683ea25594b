"""Records of GitLab's API that could not be understood: kept unchanged, and shown until they are understood."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.events.unreadable import RAW_CHARS, Unreadable
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql, filled_in

ERROR_CHARS = 500
ID_CHARS = 500
"""A longer id is kept as its hash."""

_CLEAR = filled_in(
    "DELETE FROM unreadable WHERE project_id = ? AND source = ? AND record_id IN ({})",
    Sql("SELECT value FROM json_each(?)", postgresql="SELECT json_array_elements_text(CAST(? AS json))"),
)
_BY_SOURCE = filled_in(
    """
    SELECT project_id, source, count(*), min(first_seen_at), max(last_seen_at), {}
      FROM unreadable GROUP BY project_id, source ORDER BY project_id, source
    """,
    Sql("error", postgresql="(array_agg(error ORDER BY last_seen_at DESC))[1]"),  # SQLite's is that of the latest
)


class UnreadableRow(msgspec.Struct, frozen=True):
    """An unreadable record in the ledger. A group is a project whose id is negative."""

    project_id: int
    source: str
    record_id: str
    error: str
    raw: str
    first_seen_at: str
    last_seen_at: str


def note(db: Database, project_id: int, source: str, records: Sequence[Unreadable], *, now: Millis) -> None:
    """Keep records that could not be understood. One that is there already was seen again."""
    at = times.iso(now)
    db.executemany(
        """
        INSERT INTO unreadable (project_id, source, record_id, error, raw, first_seen_at, last_seen_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
        ON CONFLICT (project_id, source, record_id)
        DO UPDATE SET error = excluded.error, raw = excluded.raw, last_seen_at = excluded.last_seen_at
        """,
        [
            (project_id, source, _short(one.record_id), one.error[:ERROR_CHARS], one.raw[:RAW_CHARS], at)
            for one in records
        ],
    )


def clear(db: Database, project_id: int, source: str, record_ids: Sequence[str]) -> None:
    """These records were understood: forget what was wrong with them before."""
    db.execute(_CLEAR, (project_id, source, orjson.dumps([_short(one) for one in record_ids]).decode()))


def _short(record_id: str) -> str:
    """An id as it is kept: an index of PostgreSQL takes no long one."""
    if len(record_id) <= ID_CHARS:
        return record_id
    return f"sha256:{sha256(record_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


def drop(db: Database, *, before: str, limit: int) -> int:
    """Drop at most `limit` records that were last seen before a time. Returns how many."""
    return db.execute(
        """
        DELETE FROM unreadable WHERE (project_id, source, record_id) IN (
            SELECT project_id, source, record_id FROM unreadable WHERE last_seen_at < ? ORDER BY last_seen_at LIMIT ?)
        """,
        (before, limit),
    ).rowcount


def unreadable(db: Database, *, limit: int = 100) -> list[UnreadableRow]:
    """The records that were seen last, newest first."""
    rows = db.execute(
        """
        SELECT project_id, source, record_id, error, raw, first_seen_at, last_seen_at
          FROM unreadable ORDER BY last_seen_at DESC, project_id, source, record_id LIMIT ?
        """,
        (limit,),
    ).fetchall()
    return [UnreadableRow(*row) for row in rows]


class UnreadableCount(msgspec.Struct, frozen=True):
    """The records of one source of a project: how many, since when, and the error of the last one."""

    project_id: int
    source: str
    count: int
    since: str
    error: str


def by_source(db: Database) -> list[UnreadableCount]:
    """All records, counted by project and source."""
    rows = db.execute(_BY_SOURCE).fetchall()
    return [
        UnreadableCount(project_id, source, found, since, error)
        for project_id, source, found, since, _, error in rows
    ]
