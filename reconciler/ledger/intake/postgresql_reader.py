"""Reads the intake in PostgreSQL for the recorder, and removes what was recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from reconciler.events import times
from reconciler.ledger.errors import IntakeUnavailable, LedgerError
from reconciler.ledger.intake.intake import Opening, ReceivedWebhook, StoredWebhook
from reconciler.ledger.intake.postgresql_rows import intake_id, last_position
from reconciler.ledger.storage import columns, postgresql
from reconciler.ledger.storage.explaining import explain
from reconciler.ledger.storage.postgresql_tables import PATIENCE_S, make_tables
from reconciler.location import PostgresUrl

READ_BYTES = 8 * 1024 * 1024
"""A batch ends when its bodies have so many bytes."""
TRIM = 1000
"""At most so many webhooks are removed at once."""
TRIM_BYTES = 16 * 1024 * 1024
"""A step ends when the bodies that it removes have so many bytes."""

# The length of a body is known without reading it.
READ = """
    SELECT position, received_at, hook, headers, body
      FROM (SELECT *, sum(octet_length(body)) OVER (ORDER BY position) - octet_length(body) AS before
              FROM (SELECT position, received_at, hook, headers, body FROM intake
                     WHERE position > %s ORDER BY position LIMIT %s) AS first) AS sized
     WHERE before < %s ORDER BY position
"""
SIZES = """
    SELECT position, octet_length(body) FROM intake
     WHERE position > ? AND position <= ? ORDER BY position LIMIT ?
"""
TRIMMED = "DELETE FROM intake WHERE position > ? AND position <= ?"
T = TypeVar("T")


class PostgresReader:
    """Reads the intake of the ledger at `url`. Raises IntakeUnavailable. A connection that was lost stays lost."""

    look_s = 1.0
    """Who listens is notified: see `listening`."""

    def __init__(self, url: PostgresUrl) -> None:
        self._url = url
        self._trimmed = 0
        """Everything up to this position was removed: what is left of it in the index is not looked at again."""
        self._db = self._try(lambda: postgresql.connect(url.value, patience_s=PATIENCE_S))
        try:
            self.intake_id = self._try(self._identity)
        except BaseException:
            self._db.close()
            raise

    def _identity(self) -> str:
        make_tables(self._url)
        return intake_id(self._db)

    def is_replaced(self) -> bool:
        """Never: another database is another URL."""
        return False

    def read(self, *, after: int, limit: int) -> list[StoredWebhook]:
        """The first webhooks after a position, in order. See `intake.Reader.read`."""
        rows = self._try(lambda: self._binary(READ, (after, limit, READ_BYTES)))
        return [_stored(*row) for row in rows]

    def _binary(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Bodies as bytes: as text they would take twice the memory."""
        return self._db.conn.execute(sql, parameters, binary=True).fetchall()

    def last_position(self) -> int:
        """The position of the last webhook that was appended; 0 if there was none."""
        return self._try(lambda: last_position(self._db))

    def openings(self) -> list[Opening]:
        """None: a database that was restored has its ledger and its intake as they were at one moment."""
        return []

    def openings_seen(self) -> None:
        """There are none."""

    def trim(self, *, through: int) -> bool:
        """Remove some of the webhooks up to and with a position. Returns whether there are more of them."""
        return self._try(lambda: self._trim(through))

    def _trim(self, through: int) -> bool:
        last, rows, size = 0, 0, 0
        for position, length in self._db.execute(SIZES, (self._trimmed, through, TRIM)):
            last, rows, size = position, rows + 1, size + length
            if size >= TRIM_BYTES:
                break
        if not rows:
            return False
        self._db.execute(TRIMMED, (self._trimmed, last))
        self._trimmed = last
        return rows == TRIM or size >= TRIM_BYTES

    def give_back(self) -> bool:
        """Nothing: the server's autovacuum does it."""
        return False

    def checkpoint(self) -> None:
        """Nothing: the server does it."""

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _try(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except psycopg.Error as error:
            raise IntakeUnavailable(f"{self._url}: {explain(error)}") from error
        except LedgerError as error:
            raise IntakeUnavailable(f"{self._url}: {error}") from error


def _stored(position: int, received_at: str, hook: str, headers: str, body: bytes) -> StoredWebhook:
    return StoredWebhook(
        position, ReceivedWebhook(hook, times.from_iso(received_at), columns.headers(headers), bytes(body))
    )
