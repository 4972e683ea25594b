"""A connection to a ledger in PostgreSQL.

Errors about the server or the connection are raised as LedgerUnavailable, those about a statement as psycopg's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.pq import TransactionStatus
from psycopg.types.string import StrDumper

from reconciler.ledger.errors import LedgerBusy, LedgerUnavailable
from reconciler.ledger.storage.database import Database, Parameters, Rows
from reconciler.ledger.storage.placeholders import for_psycopg
from reconciler.ledger.storage.sql import Sql

WRITER_LOCK = 0x676C7265
"""The advisory lock of whoever writes. SQLite has one writer at a time, and the ledger's changes rely on that.
Ledgers in other schemas of the database have locks of their own.
"""
ABANDONED_S = 10
"""A transaction whose client says nothing for so long is ended by the server: it keeps the others from writing."""
SHORTEST_WAIT_MS = 1
"""0 means to wait for ever."""

T = TypeVar("T")

_BUSY = (errors.LockNotAvailable, errors.SerializationFailure, errors.DeadlockDetected, errors.QueryCanceled)
_STATEMENT = (errors.DataError, errors.IntegrityError, errors.ProgrammingError, errors.NotSupportedError)


class _Text(StrDumper):
    """PostgreSQL's text has neither NUL nor surrogates. They are in no identity of GitLab's, only in what people
    type, and the webhook's own bytes keep them.
    """

    def dump(self, obj: str) -> Buffer | None:
        try:
            return obj.replace("\0", "\ufffd").encode()
        except UnicodeEncodeError:
            return obj.replace("\0", "\ufffd").encode("utf-8", "replace")


class PostgresDatabase(Database):
    """A connection. It does not connect again by itself: a lock that it held may be another's by then."""

    statement_errors = _STATEMENT

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self._own_commits = 0
        conn.adapters.register_dumper(str, _Text)

    def begin(self) -> None:
        self.execute("BEGIN")
        try:
            self.execute("SELECT pg_advisory_xact_lock(?, hashtext(current_schema()))", (WRITER_LOCK,))
        except BaseException:
            if self.in_transaction:
                self.rollback()
            raise

    def commit(self) -> None:
        # The number after the commit: whoever sees it grow must see the change.
        self.execute("COMMIT; SELECT nextval('changes')")
        self._own_commits += 1

    def rollback(self) -> None:
        self.execute("ROLLBACK")

    def set_patience(self, seconds: float) -> None:
        self.execute(f"SET lock_timeout = {max(SHORTEST_WAIT_MS, round(1000 * seconds))}")

    def version(self) -> int:
        commits: int = self.execute("SELECT last_value FROM changes").fetchone()[0]
        return commits - self._own_commits

    @property
    def in_transaction(self) -> bool:
        return not self.conn.closed and self.conn.info.transaction_status != TransactionStatus.IDLE

    def execute(self, sql: str, parameters: Parameters = (), /) -> Rows:
        text, values = for_psycopg(_own(sql), parameters)
        return cast(Rows, _run(lambda: self.conn.execute(text, values)))

    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> Rows:
        made = [for_psycopg(_own(sql), row) for row in rows]
        cursor = self.conn.cursor()
        if len(made) == 1:
            _run(lambda: cursor.execute(*made[0]))
        elif made:
            _run(lambda: cursor.executemany(made[0][0], [values for _, values in made]))
        return cast(Rows, cursor)

    def query_each(self, sql: str, rows: Iterable[Parameters], /) -> Iterator[list[Any]]:
        made = [for_psycopg(_own(sql), row) for row in rows]
        cursor = self.conn.cursor()
        if not made:
            return iter(())
        if len(made) == 1:
            return iter([_run(lambda: cursor.execute(*made[0])).fetchall()])
        _run(lambda: cursor.executemany(made[0][0], [values for _, values in made], returning=True))
        return (each.fetchall() for each in cursor.results())

    def query(self, sql: str, parameters: Parameters = (), /) -> Iterator[dict[str, Any]]:
        text, values = for_psycopg(_own(sql), parameters)
        rows = _run(lambda: self.conn.execute(text, values))
        names = [column.name for column in rows.description or ()]
        return (dict(zip(names, row, strict=True)) for row in rows)

    def close(self) -> None:
        self.conn.close()


def _own(sql: str) -> str:
    return sql.postgresql if isinstance(sql, Sql) else sql


def _run(statement: Callable[[], T]) -> T:
    try:
        return statement()
    except _BUSY as error:
        raise LedgerBusy(explain(error)) from error
    except _STATEMENT:
        raise
    except psycopg.Error as error:
        raise LedgerUnavailable(explain(error)) from error


def explain(error: psycopg.Error) -> str:
    """An error of PostgreSQL's in one line."""
    return " ".join(f"PostgreSQL: {error}".split())


def connect(url: str, *, patience_s: float, readonly: bool = False) -> PostgresDatabase:
    """Connect to a ledger. Raises LedgerUnavailable."""
    try:
        conn = psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="gitlab-reconciler")
    except psycopg.Error as error:
        raise LedgerUnavailable(explain(error)) from error
    db = PostgresDatabase(conn)
    try:
        db.execute(f"SET idle_in_transaction_session_timeout = '{ABANDONED_S}s'")
        if readonly:
            db.execute("SET default_transaction_read_only = on")
        db.set_patience(patience_s)
    except BaseException:
        conn.close()
        raise
    return db
