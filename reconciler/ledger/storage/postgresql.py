"""A connection to a ledger in PostgreSQL.

Errors about the server or the connection are raised as LedgerUnavailable, those about a statement as psycopg's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors, generators
from psycopg.abc import Buffer
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.types.string import StrDumper

from reconciler.ledger.errors import LedgerBusy, LedgerUnavailable
from reconciler.ledger.storage import advisory
from reconciler.ledger.storage.answering import ANSWER_S, AnsweringConnection
from reconciler.ledger.storage.any_text import writable
from reconciler.ledger.storage.conninfo import conninfo
from reconciler.ledger.storage.database import Database, Parameters, Rows
from reconciler.ledger.storage.explaining import explain
from reconciler.ledger.storage.placeholders import for_psycopg
from reconciler.ledger.storage.sql import for_postgresql

PREPARED = 400
"""Statements that the server keeps prepared: one for each combination of the types of its parameters."""
TRUSTED_S = 4
"""So long after the server was heard, a lock that it gave is still held: it waits for `SILENT_S`."""
SILENT_S = 6
"""Another process takes over what a silent one has held, within 10 seconds of when it was heard last."""
ABANDONED_S = 10
"""A transaction whose client says nothing for so long is ended by the server: it keeps the others from writing."""
SHORTEST_WAIT_MS = 1
"""0 means to wait for ever."""

UNREADABLE = (
    "PostgreSQL's client library can't read the URI of the ledger: check its parameters, and write every special "
    "character of the password as %XX"
)
UNCERTAIN = "nobody knows whether the last change was made: look at it before you repeat it"

T = TypeVar("T")

_SIZE = """
    SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
     WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
"""
_BEGIN = f"BEGIN; SELECT pg_advisory_xact_lock({advisory.WRITER}, {advisory.LEDGER})"

_HELD_SETTINGS = (
    f"idle_session_timeout = '{SILENT_S}s'",
    f"idle_in_transaction_session_timeout = '{SILENT_S}s'",
    "tcp_keepalives_idle = 2",
    "tcp_keepalives_interval = 1",
    "tcp_keepalives_count = 3",
    f"tcp_user_timeout = '{SILENT_S}s'",
    "client_connection_check_interval = '1s'",
)

_BUSY = (errors.LockNotAvailable, errors.SerializationFailure, errors.DeadlockDetected, errors.QueryCanceled)
_TROUBLE_CLASSES = ("08", "28", "3D", "53", "57", "58")
"""The classes of SQLSTATE that are about the server: connection, login, database, resources (a full disk), what an
administrator does, the system.
"""
_TROUBLES = (errors.ReadOnlySqlTransaction, errors.IdleInTransactionSessionTimeout, errors.InsufficientPrivilege)


class _Text(StrDumper):
    """PostgreSQL's text has neither NUL nor surrogates. They are in no identity of GitLab's, only in what people
    type, and the webhook's own bytes keep them.
    """

    def dump(self, obj: str) -> Buffer | None:
        try:
            return obj.replace("\0", "\ufffd").encode()
        except UnicodeEncodeError:
            return writable(obj).replace("\0", "\ufffd").encode()


class PostgresDatabase(Database):
    """A connection. It does not connect again by itself: a lock that it held may be another's by then."""

    Error = psycopg.Error

    def __init__(self, conn: AnsweringConnection) -> None:
        self.conn = conn
        self._own_commits = 0
        self.has_lock = False
        """Whether it holds a lock for as long as it lasts."""
        self._has_written = False
        self._heard_at = time.monotonic()
        conn.adapters.register_dumper(str, _Text)
        conn.prepared_max = PREPARED

    def begin(self) -> None:
        self._has_written = False
        try:
            self.execute(_BEGIN)
        except BaseException as error:
            if self.in_transaction:
                self.rollback()
            if isinstance(error, LedgerBusy):
                advice = "another process holds the write lock: is a long transaction open in this database?"
                raise LedgerBusy(f"{advice} ({error})") from error
            raise

    def commit(self) -> None:
        if self.in_transaction and self.conn.info.transaction_status == TransactionStatus.INERROR:
            raise errors.InFailedSqlTransaction("a statement has failed, and the transaction was to go on")
        if not self._has_written:
            self.execute("COMMIT")
            return
        was_open = not self.conn.closed
        try:
            self._own_commits += self._run(self._commit_and_count)
        except LedgerUnavailable as error:
            if not (was_open and self.conn.closed):
                raise
            raise LedgerUnavailable(f"{error}: {UNCERTAIN}") from error.__cause__

    def _commit_and_count(self) -> bool:
        """Commit. Returns whether the others are told. That may fail alone: what is on disk must not seem undone."""
        with self.conn.lock:
            # The number after the commit: whoever sees it grow must see the change.
            self.conn.pgconn.send_query(b"COMMIT; SELECT nextval('changes')")
            committed, *told = self.conn.wait(generators.execute(self.conn.pgconn))
        if committed.status != ExecStatus.COMMAND_OK:
            raise errors.error_from_result(committed)
        return [one.status for one in told] == [ExecStatus.TUPLES_OK]

    def rollback(self) -> None:
        self.execute("ROLLBACK")

    def set_patience(self, seconds: float) -> None:
        self.execute(f"SET lock_timeout = {max(SHORTEST_WAIT_MS, round(1000 * seconds))}")

    def give_up_after(self, seconds: float | None) -> None:
        self.conn.answer_s = seconds

    def version(self) -> int:
        commits: int = self.execute("SELECT last_value FROM changes").fetchone()[0]
        return commits - self._own_commits

    @property
    def is_held(self) -> bool:
        return not self.has_lock or time.monotonic() - self._heard_at < TRUSTED_S

    @property
    def in_transaction(self) -> bool:
        return not self.conn.closed and self.conn.info.transaction_status != TransactionStatus.IDLE

    def execute(self, sql: str, parameters: Parameters = (), /) -> Rows:
        text, values = for_psycopg(for_postgresql(sql), parameters)
        rows = self._run(lambda: self.conn.execute(text, values))
        self._has_written |= rows.rowcount > 0 and rows.description is None
        return cast(Rows, rows)

    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> Rows:
        made = [for_psycopg(for_postgresql(sql), row) for row in rows]
        cursor = self.conn.cursor()
        if len(made) == 1:  # no pipeline: that would be two more round trips
            self._run(lambda: cursor.execute(*made[0]))
        elif made:
            self._run(lambda: cursor.executemany(made[0][0], [values for _, values in made]))
        self._has_written |= bool(made)
        return cast(Rows, cursor)

    def query_each(self, sql: str, rows: Iterable[Parameters], /) -> Iterator[list[Any]]:
        made = [for_psycopg(for_postgresql(sql), row) for row in rows]
        if not made:
            return iter(())
        cursor = self.conn.cursor()
        if len(made) == 1:
            return iter([self._run(lambda: cursor.execute(*made[0])).fetchall()])
        self._run(lambda: cursor.executemany(made[0][0], [values for _, values in made], returning=True))
        return (each.fetchall() for each in cursor.results())

    def query(self, sql: str, parameters: Parameters = (), /) -> Iterator[dict[str, Any]]:
        text, values = for_psycopg(for_postgresql(sql), parameters)
        rows = self._run(lambda: self.conn.execute(text, values))
        names = [column.name for column in rows.description or ()]
        return (dict(zip(names, row, strict=True)) for row in rows)

    def size_bytes(self) -> int:
        """Of the tables with their indexes."""
        size: int = self.execute(_SIZE).fetchone()[0]
        return size

    def _run(self, statement: Callable[[], T]) -> T:
        asked_at = time.monotonic()
        try:
            done = statement()
            self._heard_at = asked_at  # the answer may have waited here while this process was stopped
            return done
        except _BUSY as error:
            raise LedgerBusy(explain(error)) from error
        except psycopg.Error as error:
            if not _is_trouble(error):
                raise
            is_lost = self.conn.closed or (self.has_lock and isinstance(error, errors.ReadOnlySqlTransaction))
            if is_lost and self.on_lost is not None:
                self.on_lost()
            raise LedgerUnavailable(explain(error)) from error

    def close(self) -> None:
        self.conn.close()


def _is_trouble(error: psycopg.Error) -> bool:
    """Whether the server or the connection is at fault, and not the statement."""
    if error.sqlstate is None:  # by psycopg itself
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate[:2] in _TROUBLE_CLASSES or isinstance(error, _TROUBLES)


def hold(
    url: str, lock: int, *, patience_s: float, first: Callable[[PostgresDatabase], None]
) -> PostgresDatabase | None:
    """Connect with one of the `advisory` locks; None if another connection has it. `first` may refuse the connection.
    Raises LedgerUnavailable.

    The server ends the connection, and frees the lock, if nothing is heard on it for `SILENT_S`: the process may be
    stopped, or its machine cut off. So whoever has the lock must use the connection more often than that.
    """
    db = connect(url, patience_s=patience_s)
    try:
        refuse_read_only(db)
        first(db)
        for setting in _HELD_SETTINGS:
            db.execute(f"SET {setting}")
        if db.execute(f"SELECT pg_try_advisory_lock(?, {advisory.LEDGER})", (lock,)).fetchone()[0]:
            db.has_lock = True
            return db
    except BaseException:
        db.close()
        raise
    db.close()
    return None


def refuse_read_only(db: PostgresDatabase) -> None:
    """Raise LedgerUnavailable if nothing can be written."""
    if db.execute("SHOW transaction_read_only").fetchone()[0] == "on":
        raise LedgerUnavailable("PostgreSQL: this server is read-only: is it a standby?")


def connect(url: str, *, patience_s: float, readonly: bool = False) -> PostgresDatabase:
    """Connect to a ledger. Raises LedgerUnavailable.

    A statement that waits longer than `ANSWER_S` for the server fails, until `give_up_after` says otherwise.
    """
    try:
        wanted = {} if readonly else {"target_session_attrs": "read-write"}
        conn = AnsweringConnection.connect(conninfo(url, **wanted), autocommit=True)
    except psycopg.ProgrammingError:  # its message has parts of the URI, perhaps of its password
        raise LedgerUnavailable(UNREADABLE) from None
    except psycopg.Error as error:
        raise LedgerUnavailable(explain(error)) from error
    db = PostgresDatabase(conn)
    db.give_up_after(ANSWER_S)
    try:
        db.execute(f"SET idle_in_transaction_session_timeout = '{ABANDONED_S}s'")
        if readonly:
            db.execute("SET default_transaction_read_only = on")
        db.set_patience(patience_s)
    except BaseException:
        conn.close()
        raise
    return db
