"""Webhooks that could not be recorded, because of a bug or of damage: kept as they came, and tried again.

The caller holds the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.intake.rows import READ_BYTES
from reconciler.ledger.storage import columns
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import IDS, Sql, joined

ERROR_CHARS = 500

ENDED = "the worker ended while this webhook was read: `intake retry` tries it again"


def _first(where: str) -> Sql:
    """The first webhooks of some. SQLite's rows are read one by one; PostgreSQL is told to stop."""
    webhook = "id, received_at, hook, headers, body"
    first = f"SELECT {webhook} FROM unrecorded WHERE {where} ORDER BY id LIMIT ?"
    return Sql(
        first,
        postgresql=f"""
        SELECT {webhook}
          FROM (SELECT *, sum(length(body)) OVER (ORDER BY id) - length(body) AS before FROM ({first}) AS f) AS s
         WHERE before < {READ_BYTES} ORDER BY id
        """,
    )


DUE = _first("due = 1")
_UNTRIED = _first("due = 1 AND tries = 0 AND id > ?")
_ROW = "SELECT id, received_at, hook, length(body), error, tried_at, tries + 0, due FROM unrecorded"
_NEWEST = f"{_ROW} ORDER BY id DESC LIMIT ?"
_THESE = joined("WHERE id IN (SELECT value FROM", IDS, ")")
_NAMED = joined(_ROW, _THESE, "ORDER BY id")
_MAKE_DUE = joined("UPDATE unrecorded SET due = 1", _THESE)
_INSERT = """
    INSERT INTO unrecorded (received_at, hook, headers, body, error, tried_at, tries, due)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


class FailedWebhook(msgspec.Struct, frozen=True):
    """A webhook that could not be recorded, and the error."""

    webhook: ReceivedWebhook
    error: str


class DueWebhook(msgspec.Struct, frozen=True):
    """A webhook that is tried again."""

    id: int
    webhook: ReceivedWebhook


class UnrecordedRow(msgspec.Struct, frozen=True):
    """A webhook that could not be recorded, without its body. `due`: the service is about to try again."""

    id: int
    received_at: str
    hook: str
    bytes: int
    error: str
    tried_at: str
    tries: int
    due: bool


class Discard(msgspec.Struct, frozen=True):
    """What was given up: everything that was asked for, or nothing, because of `unknown` ids or `untried` ones."""

    discarded: list[UnrecordedRow] = []
    unknown: list[int] = []
    untried: list[int] = []


class UnrecordedCount(msgspec.Struct, frozen=True):
    """How many webhooks could not be recorded, since when, and the error of the last one."""

    count: int
    since: str
    error: str


def keep(db: Database, failed: Sequence[FailedWebhook], *, now: Millis, due: bool = False) -> None:
    """Keep webhooks that could not be recorded. `due`: they were not tried yet."""
    at = times.iso(now)
    db.executemany(
        _INSERT,
        [
            (
                times.iso(one.webhook.received_at),
                one.webhook.hook,
                orjson.dumps(one.webhook.headers).decode(),
                one.webhook.body,
                _writable(one.error),
                at,
                0 if due else 1,
                int(due),
            )
            for one in failed
        ],
    )


def due(db: Database, *, limit: int) -> list[DueWebhook]:
    """The webhooks to be tried again, oldest first."""
    return _webhooks(db, DUE, limit)


def untried(db: Database, *, after: int, limit: int) -> list[DueWebhook]:
    """The next webhooks that were not tried yet: they waited when the ledger was copied. In the order of arrival."""
    return _webhooks(db, _UNTRIED, after, limit)


def _webhooks(db: Database, sql: str, *values: int) -> list[DueWebhook]:
    """At least one, if there is any, and not many more bytes than the recorder reads at once."""
    found: list[DueWebhook] = []
    size = 0
    for ident, at, hook, headers, body in db.execute(sql, values):
        whole = _whole(body)
        found.append(
            DueWebhook(ident, ReceivedWebhook(str(hook), times.from_iso(at), columns.headers(headers), whole))
        )
        size += len(whole)
        if size >= READ_BYTES:
            break
    return found


def make_due(db: Database, ids: Sequence[int] | None = None) -> int:
    """Have these webhooks tried again, or all but those that ended the worker. Returns how many there are."""
    if ids is None:
        return db.execute("UPDATE unrecorded SET due = 1 WHERE error <> ?", (ENDED,)).rowcount
    return db.execute(_MAKE_DUE, (orjson.dumps(ids).decode(),)).rowcount


def note_failure(db: Database, ident: int, error: str, *, now: Millis) -> None:
    """Another try has failed."""
    db.execute(
        "UPDATE unrecorded SET error = ?, tried_at = ?, tries = tries + 1, due = 0 WHERE id = ?",
        (_writable(error), times.iso(now), ident),
    )


def drop(db: Database, ids: Sequence[int]) -> None:
    """These webhooks were recorded, or given up."""
    db.executemany("DELETE FROM unrecorded WHERE id = ?", [(one,) for one in ids])


def discard(db: Database, ids: Sequence[int], *, is_served: Callable[[], bool]) -> Discard:
    """Give these webhooks up, unless one of them is unknown or is still to be tried.

    A service may be reading one that is due, and would record it nevertheless.
    """
    found = _rows(db, _NAMED, orjson.dumps(ids).decode())
    if unknown := sorted(set(ids) - {one.id for one in found}):
        return Discard(unknown=unknown)
    served = any(one.due for one in found) and is_served()
    if untried := [one.id for one in found if not one.tries or (one.due and served)]:
        return Discard(untried=untried)
    drop(db, ids)
    return Discard(found)


def unrecorded(db: Database, *, limit: int = 100) -> list[UnrecordedRow]:
    """The webhooks that could not be recorded, newest first."""
    return _rows(db, _NEWEST, limit)


def _rows(db: Database, sql: str, value: int | str) -> list[UnrecordedRow]:
    rows = db.execute(sql, (value,)).fetchall()
    return [
        UnrecordedRow(ident, received_at, hook, size, error, tried_at, tries, bool(is_due))
        for ident, received_at, hook, size, error, tried_at, tries, is_due in rows
    ]


def idents(db: Database, *, due: bool = False) -> set[int]:
    """The ids of all of them, or of those that are to be tried again."""
    sql = "SELECT id FROM unrecorded" + (" WHERE due = 1" if due else "")
    return {ident for (ident,) in db.execute(sql)}


def body(db: Database, ident: int) -> bytes | None:
    """The body of one webhook; None if there is no such webhook."""
    row = db.execute("SELECT body FROM unrecorded WHERE id = ?", (ident,)).fetchone()
    return None if row is None else _whole(row[0])


def counted(db: Database) -> UnrecordedCount | None:
    """All webhooks that were tried and could not be recorded; None if there are none."""
    count, since = db.execute("SELECT count(*), min(received_at) FROM unrecorded WHERE tries > 0").fetchone()
    if not count:
        return None
    last = db.execute("SELECT error FROM unrecorded WHERE tries > 0 ORDER BY id DESC LIMIT 1").fetchone()[0]
    return UnrecordedCount(count, since, last)


def waiting(db: Database) -> tuple[int, str | None]:
    """How many webhooks of a copy wait to be recorded for the first time, and when the first of them came."""
    count, since = db.execute("SELECT count(*), min(received_at) FROM unrecorded WHERE tries = 0").fetchone()
    return count, since


def _whole(body: object) -> bytes:
    """A body, whatever a person has made of it."""
    return body if isinstance(body, bytes) else str(body).encode()


def _writable(error: str) -> str:
    return error[:ERROR_CHARS].encode("utf-8", "replace").decode()
