"""What people type into the search box, as a query of SQLite's full-text search or of PostgreSQL's.

Both find the same: a word is a run of letters, digits and `_-./`, without case and accents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from reconciler.ledger.storage.sql import Sql

COLUMNS = ("kind", "project", "author", "branch", "commits", "object", "title")

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
FIELDS = tuple(_FIELDS)
_TYPED = re.compile(r'(?:(\w+):)?(?:"([^"]*)"|(\S+))')
_WORD = re.compile(r"[\w./-]+")
_ACCENT = re.compile("[\u0300-\u036f]")

# Limits of PostgreSQL's: 2046 bytes a word, 1 MB a document or a query.
_WORD_CHARS = 400
_FIELD_CHARS, _FIELD_WORDS = 20_000, 2000
_QUERY_WORDS = 50

# PostgreSQL can't know how often a beginning of words occurs, and would often read the whole table from its end. So
# it looks at the latest events first, where a frequent word is found often enough. Rarer ones are looked up in the
# index of words; the subquery hides the words from the planner, which takes them for rare then.
FIND = Sql(
    "SELECT rowid FROM search WHERE search MATCH :fts5 AND rowid < :before ORDER BY rowid DESC LIMIT :limit",
    postgresql="""
    WITH latest AS MATERIALIZED (
        SELECT event_id
          FROM (SELECT * FROM search WHERE event_id < :before ORDER BY event_id DESC LIMIT 10000) recent
         WHERE document @@ CAST(:tsquery AS tsquery) ORDER BY event_id DESC LIMIT :limit
    ), every AS MATERIALIZED (
        SELECT event_id FROM search
         WHERE document @@ (SELECT CAST(:tsquery AS tsquery)) AND event_id < :before
           AND (SELECT count(*) FROM latest) < :limit
    )
    SELECT event_id FROM latest UNION SELECT event_id FROM every ORDER BY event_id DESC LIMIT :limit
    """,
)
"""The newest events that match, at most `limit` with ids below `before` (see `asked_for`)."""

FIND_BETWEEN = Sql(
    "SELECT rowid FROM search WHERE search MATCH :fts5 AND rowid > :after AND rowid <= :through ORDER BY rowid",
    postgresql="""
    SELECT event_id
      FROM (SELECT * FROM search WHERE event_id > :after AND event_id <= :through ORDER BY event_id OFFSET 0) recent
     WHERE document @@ CAST(:tsquery AS tsquery) ORDER BY event_id
    """,
)
"""The events that match with ids above `after` and up to `through`."""


class Term(NamedTuple):
    """Words that follow each other, in one column or in any. With `is_beginning`, the last may go on."""

    text: str
    column: str | None = None
    is_beginning: bool = True


def terms(typed: str) -> list[Term]:
    """What is searched for. All of it must be found.

    `author:ada`, `branch:release/1.2` and `commit:3f9a0c2` search one field. `#12` is an issue, `!34` a merge
    request. Anything else is searched everywhere. The beginning of a word is enough. What is beyond a limit is
    ignored.
    """
    found: list[Term] = []
    for name, quoted, plain in _TYPED.findall(typed.replace("\0", " ")):
        word, column = quoted or plain, _FIELDS.get(name.lower())
        if name and column is None:
            word = f"{name}:{word}"
        if not name and re.fullmatch(r"[#!]\d+", word):
            about = "issue" if word[0] == "#" else "merge_request"
            found.append(Term(f"{about}/{word[1:]}", "object", is_beginning=False))
        elif re.search(r"\w", word):
            found.append(Term(_short(word), column))
    return found[:_QUERY_WORDS]


def _short(word: str) -> str:
    """A ref as it is indexed: without what GitLab puts before a branch or a tag."""
    short = word.removeprefix("refs/heads/").removeprefix("refs/tags/")
    return short if re.search(r"\w", short) else word


def unknown_fields(typed: str) -> list[str]:
    """Words before a colon that name no field, and so are searched as words."""
    names = [name for name, _, plain in _TYPED.findall(typed) if name and not plain.startswith("//")]
    return [name for name in dict.fromkeys(names) if name.lower() not in _FIELDS]


def asked_for(found: list[Term], **where: int) -> dict[str, str | int]:
    """What FIND or FIND_BETWEEN is to find, and `where`."""
    return {"fts5": fts5(found), "tsquery": tsquery(found), **where}


def fts5(found: list[Term]) -> str:
    """A query of SQLite's FTS5."""
    parts = []
    for term in found:
        column, escaped = f"{term.column} : " if term.column else "", term.text.replace('"', '""')
        parts.append(f'{column}"{escaped}"' + (" *" if term.is_beginning else ""))
    return " AND ".join(parts)


def tsquery(found: list[Term]) -> str:
    """A query of PostgreSQL's, for documents that `tsvector` made. Words beyond a limit are ignored."""
    parts, left = [], _QUERY_WORDS
    for term in found:
        words = list(islice(_words(term.text), left))
        left -= len(words)
        if words:
            either = [_follow(words, column, term) for column in ([term.column] if term.column else COLUMNS)]
            parts.append(f"({' | '.join(either)})")
    return " & ".join(parts)


def _follow(words: list[str], column: str, term: Term) -> str:
    return "(" + " <-> ".join(f"'{column}:{word}'" for word in words) + (":*)" if term.is_beginning else ")")


def tsvector(fields: Mapping[str, str]) -> str:
    """A document of PostgreSQL's, from a text for each column. Its words are like `author:ada`."""
    return " ".join(
        f"'{column}:{word}':{position}"
        for column, text in fields.items()
        for position, word in enumerate(islice(_words(text[:_FIELD_CHARS]), _FIELD_WORDS), 1)
    )


def _words(text: str) -> Iterator[str]:
    plain = unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", text.casefold())))
    return (found[0][:_WORD_CHARS] for found in _WORD.finditer(plain))
