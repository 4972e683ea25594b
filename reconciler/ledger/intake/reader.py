"""Reads the intake's file for the recorder, and removes what was recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.file import WAL_LIMIT_BYTES, IntakeFile, explain, open_intake
from reconciler.ledger.intake.intake import Opening, StoredWebhook
from reconciler.ledger.intake.rows import last_position, openings, read_after
from reconciler.ledger.intake.shrinking import give_back
from reconciler.ledger.storage.connection import is_busy

TRIM = 200
"""At most so many webhooks are removed at once: the receiver waits meanwhile."""
TRIM_BYTES = 2 * 1024 * 1024
"""A step ends when the bodies that it removes have so many bytes."""

FIRST = "SELECT received_at FROM webhooks WHERE position > ? ORDER BY position LIMIT 1"
SIZES = "SELECT position, length(body) FROM webhooks WHERE position <= ? ORDER BY position LIMIT ?"
TRIMMED = """
    DELETE FROM webhooks WHERE position <= ?1 AND NOT EXISTS (SELECT 1 FROM openings WHERE after < ?1)
"""
"""Nothing that came after an opening that the recorder has not looked at: positions may have been used again."""
_SEEN = "DELETE FROM openings"

SEEN_PATIENCE_MS = 20

T = TypeVar("T")


class SqliteReader:
    """Reads the intake at `path`, which is created if there is none. Raises IntakeUnavailable."""

    look_s = 0.05

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_intake(path)
        self._file.conn.execute("PRAGMA synchronous = NORMAL")  # what is trimmed twice was recorded once

    @property
    def intake_id(self) -> str:
        """The id of the intake that is open."""
        return self._file.id

    def is_replaced(self) -> bool:
        """Whether another file is at the path now: read this one to its end, then open that one."""
        return self._file.files.trouble() is not None

    def read(self, *, after: int, limit: int) -> list[StoredWebhook]:
        """The first webhooks after a position, in order. See `intake.Reader.read`."""
        return self._run(partial(read_after, after=after, limit=limit))

    def last_position(self) -> int:
        """The position of the last webhook that was appended; 0 if there was none."""
        return self._run(last_position)

    def openings(self) -> list[Opening]:
        """The openings by receivers since `openings_seen` was called, oldest first."""
        return self._run(openings)

    def openings_seen(self) -> None:
        """The recorder knows which positions were used again. While the intake is locked nothing is noted."""
        self._run(_openings_seen)

    def trim(self, *, through: int) -> bool:
        """Remove some of the webhooks up to and with a position. Returns whether there are more of them."""
        return self._run(partial(_trim, through=through))

    def give_back(self) -> bool:
        """Give some of the file's free pages back to the disk. Returns whether there are more to be given back.

        The file itself becomes smaller at the next checkpoint.
        """
        return self._run(give_back)

    def checkpoint(self) -> None:
        """Move the WAL's content into the file, so that appending need not. It waits for nobody."""
        self._run(_checkpoint)
        wal = self._path.with_name(self._path.name + "-wal")
        try:
            is_long = wal.stat().st_size > WAL_LIMIT_BYTES // 2
        except OSError:
            return
        if is_long:
            self._run(_begin_log_anew)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _run(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return ask(self._file.conn)
        except sqlite3.Error as error:
            raise IntakeUnavailable(f"{self._path}: {explain(error)}") from error


def _trim(conn: sqlite3.Connection, through: int) -> bool:
    last, rows, size = 0, 0, 0
    for position, length in conn.execute(SIZES, (through, TRIM)):
        last, rows, size = position, rows + 1, size + length
        if size >= TRIM_BYTES:
            break
    if not rows or not conn.execute(TRIMMED, (last,)).rowcount:
        return False
    return rows == TRIM or size >= TRIM_BYTES


def _openings_seen(conn: sqlite3.Connection) -> None:
    """This is called on the event loop, which must not wait for a disk that hangs: it is called again soon."""
    [[patience]] = conn.execute("PRAGMA busy_timeout")
    conn.execute(f"PRAGMA busy_timeout = {SEEN_PATIENCE_MS}")
    try:
        conn.execute(_SEEN)
    except sqlite3.Error as error:
        if not is_busy(error):
            raise
    finally:
        conn.execute(f"PRAGMA busy_timeout = {patience}")


def _checkpoint(conn: sqlite3.Connection) -> None:
    conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _begin_log_anew(conn: sqlite3.Connection) -> None:
    """Let the next append begin at the start of the WAL, unless somebody reads or writes it now.

    This holds the write lock. With a busy timeout it would hold it for as long as a reader's snapshot lasts.
    """
    [[patience]] = conn.execute("PRAGMA busy_timeout")
    conn.execute("PRAGMA busy_timeout = 0")
    try:
        conn.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    finally:
        conn.execute(f"PRAGMA busy_timeout = {patience}")


def first_received(file: IntakeFile, after: int) -> str | None:
    """When the first webhook after a position came; None if there is none. Raises sqlite3.Error."""
    row = file.conn.execute(FIRST, (after,)).fetchone()
    return None if row is None else str(row[0])
