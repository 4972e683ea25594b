"""Full-text search for events: kind, project, author, branch, commit, issue number, title.

A service fills the search index in the background, a few seconds after events are recorded: indexing costs more than
recording, and must not delay a webhook.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from reconciler.events.fields import dig, parsed, text
from reconciler.ledger.storage.connection import is_trouble
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views.browse import LIST

EVENTS_A_STEP = 300
_MOST_COMMITS = 50

_NEXT = "SELECT id FROM events WHERE id > (SELECT coalesce(max(rowid), 0) FROM search) ORDER BY id LIMIT ?"
_EVENTS = """
    SELECT e.id, s.kind, s.action, e.project_id, s.project_path, s.author, s.ref, s.object, s.title, s.payload
      FROM events e JOIN sightings s ON s.id = e.sighting_id WHERE e.id BETWEEN ? AND ?
"""
_INSERT = """
    INSERT INTO search (rowid, kind, project, author, branch, commits, object, title) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
FIND = "SELECT rowid FROM search WHERE search MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?"

_FIELDS = {
    "kind": "kind",
    "action": "kind",
    "project": "project",
    "author": "author",
    "branch": "branch",
    "ref": "branch",
    "commit": "commits",
    "object": "object",
    "title": "title",
}
_WORD = re.compile(r'(?:(\w+):)?(?:"([^"]*)"|(\S+))')


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
        for ident in wrong:  # an empty row, so that the next step continues after it
            db.execute(_INSERT, (ident, *[""] * 7))
    return Indexed(len(ids) == EVENTS_A_STEP, list(wrong), next(reversed(wrong.values()), None))


def _index(db: Database, ids: list[int]) -> str | None:
    """Index all of these consecutive events, or none of them. Returns the error if one can't be indexed.

    Raises sqlite3.Error if the ledger is at fault.
    """
    try:
        with _savepoint(db):
            rows = db.execute(_EVENTS, (ids[0], ids[-1])).fetchall()
            if len(rows) != len(ids):
                raise LookupError("an event has no sighting")
            db.executemany(_INSERT, [_words(*row) for row in rows])
    except Exception as error:  # a value that is no text, or a body that is too deep
        if is_trouble(error):
            raise
        return f"{type(error).__name__}: {error}"[:500]
    return None


@contextmanager
def _savepoint(db: Database) -> Iterator[None]:
    """Undo what the block did in the open transaction if it raises."""
    db.execute("SAVEPOINT step")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK TO step")
        raise
    finally:
        db.execute("RELEASE step")


def find(db: Database, words: str, *, before: int, limit: int) -> list[dict[str, Any]]:
    """The newest events with an id below `before` that contain all these words, newest first."""
    asked = expression(words)
    if asked is None:
        return []
    ids = [ident for (ident,) in db.execute(FIND, (asked, before, limit))]
    if not ids:
        return []
    marks = ",".join("?" * len(ids))
    return list(db.query(f"{LIST} AND e.id IN ({marks}) ORDER BY e.id DESC", ids))


def expression(words: str) -> str | None:
    """The words as an FTS5 query; None if there are none.

    `author:ada`, `branch:release/1.2` and `commit:3f9a0c2` search one field. `#12` is an issue, `!34` a merge
    request. Anything else is searched everywhere. The beginning of a word is enough.
    """
    parts = []
    for name, quoted, plain in _WORD.findall(words.replace("\0", " ")):
        word, column = quoted or plain, _FIELDS.get(name.lower())
        if name and column is None:
            word = f"{name}:{word}"
        if not name and re.fullmatch(r"[#!]\d+", word):
            parts.append(f'object : "{"issue" if word[0] == "#" else "merge_request"}/{word[1:]}"')
        elif re.search(r"\w", word):
            escaped = word.replace('"', '""')
            parts.append((f"{column} : " if column else "") + f'"{escaped}" *')
    return " AND ".join(parts) or None


def _words(
    event_id: int,
    kind: str,
    action: str | None,
    project_id: int | None,
    path: str | None,
    author: str | None,
    ref: str | None,
    about: str | None,
    title: str | None,
    payload: str,
) -> tuple[Any, ...]:
    project = " ".join(str(part) for part in (project_id, path) if part is not None)
    branch = (ref or "").removeprefix("refs/heads/").removeprefix("refs/tags/")
    commits = " ".join(_commits(parsed(payload)))
    return event_id, f"{kind} {action or ''}", project, author or "", branch, commits, about or "", title or ""


def _commits(body: Any) -> list[str]:
    """The SHAs of the commits in a body."""
    paths: tuple[str, ...] = ("after", "checkout_sha", "commit.id", "commit.sha", "object_attributes.sha", "sha")
    paths += ("object_attributes.last_commit.id", "object_attributes.merge_commit_sha")
    found = [text(dig(body, path)) for path in paths]
    listed = dig(body, "commits")
    if isinstance(listed, list):
        found += [text(dig(commit, "id")) for commit in listed[:_MOST_COMMITS]]
    return list(dict.fromkeys(sha for sha in found if sha is not None and len(sha) >= 7))
