"""The rows of an intake's file. Those that damage has made unreadable are passed over."""

from __future__ import annotations

import sqlite3

import orjson

from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.intake.intake import Opening, ReceivedWebhook, StoredWebhook, lost
from reconciler.ledger.storage import columns
from reconciler.ledger.storage.connection import is_damage, is_trouble

READ_BYTES = 8 * 1024 * 1024
"""A batch ends when its bodies have so many bytes."""

READ = "SELECT position, received_at, hook, headers, body FROM webhooks WHERE position > ? ORDER BY position LIMIT ?"
INSERT = "INSERT INTO webhooks (received_at, hook, headers, body) VALUES (?, ?, ?, ?)"
_ONE = "SELECT position, received_at, hook, headers, body FROM webhooks WHERE position = ?"
_FOLLOWING = "SELECT position FROM webhooks WHERE position > ? ORDER BY position LIMIT 1"
_OPENINGS = "SELECT id, after FROM openings ORDER BY number"
_OPENED_AFTER = "SELECT 'before', opened_after FROM intake WHERE opened_after IS NOT NULL"
"""In an intake of version 2."""
_LAST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'webhooks'"


Row = tuple[str, str, str, bytes]


def as_row(webhook: ReceivedWebhook) -> Row:
    """A webhook as `INSERT` writes it."""
    headers = orjson.dumps(webhook.headers).decode()
    return times.iso(webhook.received_at), webhook.hook, headers, webhook.body


def read_after(conn: sqlite3.Connection, *, after: int, limit: int) -> list[StoredWebhook]:
    """The first webhooks after a position, in order. See `intake.Reader.read`. Raises sqlite3.Error."""
    found: list[StoredWebhook] = []
    size = 0
    try:
        for row in conn.execute(READ, (after, limit)):
            found.append(_stored(*row))
            size += len(found[-1].webhook.body)
            if size >= READ_BYTES:
                break
    except sqlite3.Error as error:
        if not _concerns_rows(error):
            raise
        return found or _one_by_one(conn, after, limit)
    return found


def last_position(conn: sqlite3.Connection) -> int:
    """The position of the last webhook that was appended; 0 if there was none. Raises sqlite3.Error."""
    last: int = conn.execute(_LAST).fetchone()[0]
    return last


def openings(conn: sqlite3.Connection) -> list[Opening]:
    """The openings by receivers since the recorder looked, oldest first. Raises sqlite3.Error."""
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    if version < 2:
        return []
    rows = conn.execute(_OPENINGS if version > 2 else _OPENED_AFTER)
    return [Opening(ident, after) for ident, after in rows]


def _one_by_one(conn: sqlite3.Connection, after: int, limit: int) -> list[StoredWebhook]:
    """The first webhooks after a position. Those that can't be read are there as lost ones."""
    found: list[StoredWebhook] = []
    near, size = times.now(), 0
    last = last_position(conn)
    position = _next(conn, after, last)
    while position is not None:
        one = _read_one(conn, position, near)
        if one is not None:
            found.append(one)
            near = one.webhook.received_at
            size += len(one.webhook.body)
            if len(found) >= limit or size >= READ_BYTES:
                break
        position = _next(conn, position, last)
    return found


def _next(conn: sqlite3.Connection, position: int, last: int) -> int | None:
    """The next position where something is, or may be: damage hides what is there. None if there is nothing."""
    try:
        row = conn.execute(_FOLLOWING, (position,)).fetchone()
    except sqlite3.Error as error:
        if not _concerns_rows(error):
            raise
        return position + 1 if position < last else None
    return None if row is None else int(row[0])


def _read_one(conn: sqlite3.Connection, position: int, near: Millis) -> StoredWebhook | None:
    try:
        row = conn.execute(_ONE, (position,)).fetchone()
    except sqlite3.Error as error:
        if not _concerns_rows(error):
            raise
        return StoredWebhook(position, lost(near))
    return None if row is None else _stored(*row)


def _stored(position: int, received_at: str, hook: str, headers: str, body: bytes) -> StoredWebhook:
    whole = body if isinstance(body, bytes) else str(body).encode()
    return StoredWebhook(
        position, ReceivedWebhook(str(hook), times.from_iso(received_at), columns.headers(headers), whole)
    )


def _concerns_rows(error: sqlite3.Error) -> bool:
    """Whether some rows can't be read, and others may be. A text that is no UTF-8 is an error of Python's sqlite3."""
    return is_damage(error) or not is_trouble(error)
