"""A connection of `kind: sql` to its database, and the thread that all its calls are made on: they block."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, literal_column, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from reconciler.forwarding import sql_table
from reconciler.forwarding.message import DeliveryRejected, Message, NotAccepted

T = TypeVar("T")

_TOO_LARGE = (1153, 1406, "22001", "54000", "SQLITE_TOOBIG")
"""What databases call a value that is too large: MySQL by number, PostgreSQL by SQLSTATE, SQLite by name."""

_AWAY = (1040, 1053, 2002, 2003, 2006, 2013, "", "57P01", "57P02", "57P03", "53300")
"""No server, no answer, or a server that stops, starts or has no connection left. psycopg's own errors have no
SQLSTATE.
"""


class DatabaseFailed(Exception):
    """The database failed, or refused a statement: for example because of a lock, a missing right or a full disk."""


class Session:
    """One connection. `run` its methods, which block, on its thread. A call that is given up goes on there, until the
    driver's own timeout at the latest; what it then does is done again, with the same result.
    """

    def __init__(self, url: URL, table: str, *, timeout_s: float) -> None:
        self._engine = _engine(url, timeout_s)
        self._timeout_s = timeout_s
        self._table = sql_table.described(table)
        self._table_is_ready = False
        self._largest: int | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sql")
        self._connection: Connection | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Run a method on the thread, after those before it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def connect(self) -> None:
        """Connect, with the login."""
        with _translated():
            self._connection = self._engine.connect()
            if self._engine.dialect.name in ("mysql", "mariadb"):
                self._largest = self._connection.scalar(select(literal_column("@@max_allowed_packet")))
                self._connection.rollback()

    def look(self) -> bool:
        """Whether the table is there. Raises TableUnfit if it can't take the events."""
        with self._transaction() as connection:
            return sql_table.is_there(connection, self._table)

    def write(self, messages: Sequence[Message]) -> None:
        """Write rows in one transaction. The table is created first if it is missing."""
        rows = [sql_table.row(one) for one in messages]
        for one in rows if self._largest is not None else ():
            if (size := sql_table.size_in_mysql(one)) > (self._largest or size):
                raise DeliveryRejected(f"{size:,} bytes are more than the server's max_allowed_packet")
        if not self._table_is_ready:
            with self._transaction() as connection:
                if not sql_table.is_there(connection, self._table):
                    self._table.create(connection)
            self._table_is_ready = True
        with self._transaction() as connection:
            sql_table.write(connection, self._table, rows)

    async def close(self) -> None:
        """Close the connection, once the calls before have ended, and end the thread."""
        await asyncio.wrap_future(self.abandon())

    def abandon(self) -> Future[None]:
        """As `close`, without waiting."""
        closed = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        return closed

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        assert self._connection is not None, "connect first"  # noqa: S101
        with _translated(), self._connection.begin():
            if self._engine.dialect.name == "postgresql":  # else what was given up might wait for a lock for ever
                self._connection.exec_driver_sql(
                    f"SET LOCAL statement_timeout = {max(1, int(self._timeout_s * 1000))}"
                )
            yield self._connection


def _engine(url: URL, timeout_s: float) -> Engine:
    dialect = f"{url.get_backend_name()}+{url.get_driver_name()}"
    whole = max(1, round(timeout_s))
    known: dict[str, dict[str, Any]] = {
        "sqlite+pysqlite": {"timeout": timeout_s},
        # Without a pooler's prepared statements, as the ledger does.
        "postgresql+psycopg": {"connect_timeout": whole, "prepare_threshold": None},
        "mysql+pymysql": {
            "connect_timeout": whole,
            "read_timeout": timeout_s,
            "write_timeout": timeout_s,
            # Strict: else MySQL may cut what is too long for a column of the user's, and say nothing.
            "init_command": "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), time_zone = '+00:00'",
        },
    }
    options = known.get(dialect.replace("mariadb+", "mysql+"), {})
    engine = create_engine(url, connect_args=options, poolclass=NullPool, hide_parameters=True)
    if dialect == "postgresql+psycopg":
        event.listen(engine, "do_connect", _connector(timeout_s))
    return engine


def _connector(timeout_s: float) -> Callable[..., Any]:
    from reconciler.ledger.storage.answering import AnsweringConnection

    # It warns of the rest of a pipeline that ends with an error, which is in our answer.
    logging.getLogger("psycopg").setLevel(logging.ERROR)

    def connect(_dialect: Any, _record: Any, args: Sequence[Any], named: dict[str, Any]) -> AnsweringConnection:
        made = AnsweringConnection.connect(*args, **named)
        made.answer_s = timeout_s
        return made

    return connect


@contextmanager
def _translated() -> Iterator[None]:
    """Raise a driver's errors as ours. Their text has no statement and no values.

    Only what is too large for the database is rejected. A table that does not take an event for another reason was
    made or changed by a person, who can mend it: the event waits.
    """
    try:
        yield
    except DBAPIError as error:
        cause = error.orig
        code = _code(cause)
        if code in _TOO_LARGE:
            raise DeliveryRejected(f"the database rejected it as too large: {_words(cause)}") from None
        if error.connection_invalidated or code in _AWAY:
            raise ConnectionError(_words(cause)) from None
        if isinstance(error, IntegrityError | DataError):
            raise NotAccepted(f"the table did not accept it: {_words(cause)}") from None
        raise DatabaseFailed(_words(cause)) from None


def _code(error: BaseException | None) -> int | str | None:
    """PostgreSQL's SQLSTATE, SQLite's name or MySQL's number of an error; None for another driver's."""
    for attribute in ("sqlstate", "sqlite_errorname"):
        if hasattr(error, attribute):
            return str(getattr(error, attribute) or "")
    first = _arguments(error)[0]
    return first if isinstance(first, int) else None


def _words(error: BaseException | None) -> str:
    """What the database said, in a line: PostgreSQL's further lines may have values."""
    number, *texts = _arguments(error)
    if texts and isinstance(number, int):  # MySQL's
        return f"{texts[0]} ({number})"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _arguments(error: BaseException | None) -> list[Any]:
    return list(getattr(error, "args", ())) or [None]
