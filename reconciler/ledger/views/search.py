"""Full-text search for events: kind, project, author, branch, commit, issue number, title.

A service fills the search index in the background, a few seconds after events are recorded: indexing costs more than
recording, and must not delay a webhook.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from reconciler.events.fields import dig, parsed, text
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.storage.connection import is_trouble
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.savepoint import savepoint
from reconciler.ledger.storage.sql import EACH_INTEGER, Sql, filled_in
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.views.browse import FAR, LIST, LIST_FOUND, Filter
from reconciler.ledger.views.words import COLUMNS, FIND, FIND_BETWEEN, Term, asked_for, fts5, terms, tsvector

EVENTS_A_STEP = 300
_LARGEST_STEP = 100_000
_MOST_COMMITS = 50

_ID = Sql("rowid", postgresql="event_id")
_INDEXED = filled_in("SELECT coalesce(max({}), 0) FROM search", _ID)
_NEXT = filled_in("SELECT id FROM events WHERE id > ({}) ORDER BY id LIMIT ?", _INDEXED)
_EVENTS = """
    SELECT e.id, s.kind, s.action, e.project_id, s.project_path, s.author, s.ref, s.object, s.title, s.payload
      FROM events e JOIN sightings s ON s.id = e.sighting_id WHERE e.id BETWEEN ? AND ?
"""
_INSERT = f"INSERT INTO search (rowid, {', '.join(COLUMNS)}) VALUES (:id, {', '.join(f':{c}' for c in COLUMNS)})"
_INSERT_DOCUMENT = "INSERT INTO search (event_id, document) VALUES (:id, CAST(:document AS tsvector))"


class Indexed(msgspec.Struct, frozen=True):
    """The result of an indexing step. `more`: events are left to index. `skipped`: events that can't be indexed."""

    more: bool
    skipped: list[int]
    why: str | None
    """What was wrong with the last of those skipped."""


def index_step(db: Database) -> Indexed:
    """Index the next events, inside the open transaction. One that can't be indexed is skipped."""
    ids = [ident for (ident,) in db.execute(_NEXT, (EVENTS_A_STEP,))]
    wrong: dict[int, str] = {}
    if ids and _index(db, ids) is not None:
        wrong = {ident: error for ident in ids if (error := _index(db, [ident])) is not None}
        insert(db, [(ident, dict.fromkeys(COLUMNS, "")) for ident in wrong])  # so that the next step goes on after
    return Indexed(len(ids) == EVENTS_A_STEP, list(wrong), next(reversed(wrong.values()), None))


def _index(db: Database, ids: list[int]) -> str | None:
    """Index all of these consecutive events, or none of them. Returns the error if one can't be indexed.

    Raises sqlite3.Error or LedgerUnavailable if the ledger is at fault.
    """
    try:
        with savepoint(db):
            rows = db.execute(_EVENTS, (ids[0], ids[-1])).fetchall()
            if len(rows) != len(ids):
                raise LookupError("an event has no sighting")
            insert(db, [(row[0], _fields(*row[1:])) for row in rows])
    except Exception as error:  # a value that is no text, or a body that is too deep
        if is_trouble(error) or isinstance(error, LedgerUnavailable):
            raise
        return f"{type(error).__name__}: {error}"[:500]
    return None


def insert(db: Database, found: list[tuple[int, dict[str, str]]]) -> None:
    """Add events to the index: their ids, and a text for each column."""
    if isinstance(db, SqliteDatabase):
        db.executemany(_INSERT, [{"id": ident} | fields for ident, fields in found])
    else:
        db.executemany(_INSERT_DOCUMENT, [{"id": ident, "document": tsvector(fields)} for ident, fields in found])


def find(db: Database, words: str, *, before: int, limit: int) -> list[dict[str, Any]]:
    """The newest events with an id below `before` that contain all these words, newest first. See `terms`."""
    ids = matching(db, words, before=before, limit=limit)
    if not ids:
        return []
    return list(db.query(filled_in("{} AND e.id IN ({}) ORDER BY e.id DESC", LIST, ",".join("?" * len(ids))), ids))


def find_filtered(db: Database, words: str, wanted: Filter, *, before: int, limit: int) -> list[dict[str, Any]]:
    """As `find`, but only events that match a filter too."""
    where, values = wanted.where()
    if isinstance(db, SqliteDatabase):
        if not (asked := terms(words)):
            return []
        sql = filled_in("{}{} ORDER BY search.rowid DESC LIMIT ?", LIST_FOUND, where)
        return list(db.query(sql, [fts5(asked), before, *values, limit]))
    found: list[dict[str, Any]] = []
    sql = filled_in("{}{} AND e.id IN ({}) ORDER BY e.id DESC LIMIT ?", LIST, where, EACH_INTEGER)
    step = EVENTS_A_STEP
    while len(found) < limit and (ids := matching(db, words, before=before, limit=step)):
        found += db.query(sql, [*values, orjson.dumps(ids).decode(), limit - len(found)])
        before, step = ids[-1], min(2 * step, _LARGEST_STEP)  # each step costs as much as everything that it finds
    return found


def matching(db: Database, words: str, *, before: int, limit: int) -> list[int]:
    """The ids of these events."""
    asked = terms(words)
    if not asked:
        return []
    found = db.execute(FIND, asked_for(asked, before=before, limit=limit))
    return [ident for (ident,) in found]


def matching_between(db: Database, words: str, *, after: int, through: int) -> list[int]:
    """The ids in a short range of those events that contain all these words, in order."""
    asked = terms(words)
    if not asked:
        return []
    found = db.execute(FIND_BETWEEN, asked_for(asked, after=after, through=through))
    return [ident for (ident,) in found]


def indexed_through(db: Database) -> int:
    """The id of the newest event in the index; 0 if it is empty."""
    newest: int = db.execute(_INDEXED).fetchone()[0]
    return newest


def is_found(db: Database, term: Term) -> bool:
    """Whether any event has this."""
    return db.execute(FIND, asked_for([term], before=FAR, limit=1)).fetchone() is not None


def _fields(
    kind: str,
    action: str | None,
    project_id: int | None,
    path: str | None,
    author: str | None,
    ref: str | None,
    about: str | None,
    title: str | None,
    payload: str,
) -> dict[str, str]:
    project = " ".join(str(part) for part in (project_id, path) if part is not None)
    branch = (ref or "").removeprefix("refs/heads/").removeprefix("refs/tags/")
    commits = " ".join(_commits(parsed(payload)))
    values = (f"{kind} {action or ''}", project, author or "", branch, commits, about or "", title or "")
    return dict(zip(COLUMNS, values, strict=True))


def _commits(body: Any) -> list[str]:
    """The SHAs of the commits in a body."""
    paths: tuple[str, ...] = ("after", "checkout_sha", "commit.id", "commit.sha", "object_attributes.sha", "sha")
    paths += ("object_attributes.last_commit.id", "object_attributes.merge_commit_sha")
    found = [text(dig(body, path)) for path in paths]
    listed = dig(body, "commits")
    if isinstance(listed, list):
        found += [text(dig(commit, "id")) for commit in listed[:_MOST_COMMITS]]
    return list(dict.fromkeys(sha for sha in found if sha is not None and len(sha) >= 7))
