"""A connection to a ledger in SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from math import inf
from typing import Any

import sqlite_utils

from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.storage.database import Database, Parameters
from reconciler.ledger.storage.files import Files

_STEPS = 10_000
"""After so many of its steps, SQLite asks whether a statement is to go on: many times a second."""


class SqliteDatabase(Database):
    """A connection to a ledger's file, and the files that it has open, if it is one."""

    Error = sqlite3.Error

    def __init__(self, conn: sqlite3.Connection, files: Files | None = None) -> None:
        self.conn = conn
        self.files = files
        self.utils = sqlite_utils.Database(conn, recursive_triggers=False)
        self._patience_s = inf
        self._until = inf

    def trouble(self) -> str | None:
        """Why the files at the ledger's path are not those that are open, if so."""
        return None if self.files is None else self.files.trouble()

    def begin(self) -> None:
        self.conn.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit, and verify that the open files are those at the ledger's path, even if they were replaced during
        the commit.
        """
        self._verify()
        self.conn.execute("COMMIT")
        self._verify()

    def _verify(self) -> None:
        if (trouble := self.trouble()) is not None:
            raise LedgerUnavailable(trouble)

    def rollback(self) -> None:
        self.conn.execute("ROLLBACK")

    def set_patience(self, seconds: float) -> None:
        self.conn.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")

    def tell_opened(self, destinations: Collection[int]) -> None:
        """Nobody: no copies share it."""

    def give_up_after(self, seconds: float | None) -> None:
        self._patience_s = inf if seconds is None else seconds
        self.conn.set_progress_handler(None if seconds is None else self._is_late, _STEPS)

    def _is_late(self) -> bool:
        return time.monotonic() > self._until

    def _begin(self) -> sqlite3.Connection:
        """The connection, for a statement that begins now."""
        self._until = time.monotonic() + self._patience_s
        return self.conn

    def version(self) -> int:
        version: int = self.conn.execute("PRAGMA data_version").fetchone()[0]
        return version

    @property
    def in_transaction(self) -> bool:
        return self.conn.in_transaction

    def execute(self, sql: str, parameters: Parameters = (), /) -> sqlite3.Cursor:
        return self._begin().execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> sqlite3.Cursor:
        return self._begin().executemany(sql, rows)

    def query_each(self, sql: str, rows: Iterable[Parameters], /) -> Iterator[list[Any]]:
        return (self._begin().execute(sql, row).fetchall() for row in rows)

    def query(self, sql: str, parameters: Parameters = (), /) -> Iterator[dict[str, Any]]:
        rows = self._begin().execute(sql, parameters)
        names = [column[0] for column in rows.description]
        return (dict(zip(names, row, strict=True)) for row in rows)

    def size_bytes(self) -> int:
        """Of the file and its WAL."""
        if self.files is None:
            return 0
        size, path = 0, self.files.path
        for one in (path, path.with_name(f"{path.name}-wal")):
            with suppress(OSError):
                size += one.stat().st_size
        return size

    def close(self) -> None:
        self.conn.close()
