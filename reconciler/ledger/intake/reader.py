"""Reads the intake's file for the recorder, and removes what was recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.file import WAL_LIMIT_BYTES, IntakeFile, explain, open_intake
from reconciler.ledger.intake.intake import Place, StoredWebhook
from reconciler.ledger.intake.rows import last_position, read_after

TRIM = 200
"""So many webhooks are removed at once: the receiver waits meanwhile."""

FIRST = "SELECT received_at FROM webhooks WHERE position > ? ORDER BY position LIMIT 1"
TRIMMED = "DELETE FROM webhooks WHERE position IN (SELECT position FROM webhooks WHERE position <= ? LIMIT ?)"

T = TypeVar("T")


class SqliteReader:
    """Reads the intake at `path`, which is created if there is none. Raises IntakeUnavailable."""

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

    def trim(self, *, through: int) -> bool:
        """Remove some of the webhooks up to and with a position. Returns whether there are more of them."""
        return self._run(lambda conn: conn.execute(TRIMMED, (through, TRIM)).rowcount == TRIM)

    def checkpoint(self) -> None:
        """Move the WAL's content into the file, so that appending need not."""
        wal = self._path.with_name(self._path.name + "-wal")
        try:
            is_long = wal.stat().st_size > WAL_LIMIT_BYTES // 2
        except OSError:
            return
        self._run(lambda conn: conn.execute(f"PRAGMA wal_checkpoint({'RESTART' if is_long else 'PASSIVE'})"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _run(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return ask(self._file.conn)
        except sqlite3.Error as error:
            raise IntakeUnavailable(f"{self._path}: {explain(error)}") from error


def waiting(place: Place | None, file: IntakeFile) -> tuple[int, str | None]:
    """How many webhooks wait to be recorded, and when the first of them came. `place` is how far a ledger is."""
    position = place.position if place is not None and place.intake_id == file.id else 0
    row = file.conn.execute(FIRST, (position,)).fetchone()
    return (0, None) if row is None else (last_position(file.conn) - position, row[0])
