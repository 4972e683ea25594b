"""Appends webhooks to the intake in PostgreSQL: many share one commit, and none waits for a timer.

A batch is one statement, so that no receiver that hangs can hold the lock that orders the positions. Everything that
is submitted while a batch is committed goes into the next one.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from reconciler.ledger.errors import IntakeUnavailable, LedgerError
from reconciler.ledger.intake.async_connection import answer, connect
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.intake.rows import Row, as_row
from reconciler.ledger.intake.trouble import Trouble
from reconciler.ledger.storage.explaining import explain
from reconciler.ledger.storage.postgresql_tables import make_tables
from reconciler.location import PostgresUrl

BATCH = 512
"""At most so many webhooks share one commit."""
BATCH_BYTES = 8 * 1024 * 1024
"""A batch ends when its bodies have so many bytes."""
STATEMENT_S = 8
"""The server gives up a statement then, before the receiver does (`async_connection.ANSWER_S`)."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""How long it waits until it connects again. Webhooks that come meanwhile fail at once."""

_APPEND = "SELECT append_to_intake(%b::text[], %b::text[], %b::text[], %b::bytea[])"
_TOUCH = """
    WITH touched AS (
        INSERT INTO meta (name, value) VALUES ('intake_checked', '1')
        ON CONFLICT (name) DO UPDATE SET value = CASE meta.value WHEN '1' THEN '2' ELSE '1' END
    )
    SELECT append_to_intake('{}', '{}', '{}', '{}')
"""
"""It waits for the same lock as a webhook, and the commit is on disk."""
_SETTINGS = (
    "SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('server_encoding')"
)
_IS_THERE = "SELECT to_regclass('intake') IS NOT NULL"

log = structlog.get_logger(__name__)


class PostgresAppender:
    """Appends to the intake of a ledger. Use it from the event loop that created it.

    It connects for the first webhook, and again by itself. A batch whose answer is lost fails, though it may be on
    disk: GitLab's next try is recognised. `appended` and `trouble` are called as `SqliteAppender` calls them.
    """

    most = BATCH

    def __init__(
        self,
        url: PostgresUrl,
        *,
        appended: Callable[[], None] = lambda: None,
        trouble: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self.waiting = 0
        self._url = url
        self._appended = appended
        self._trouble = Trouble(trouble)
        self._loop = asyncio.get_running_loop()
        self._rows: deque[tuple[Row | None, asyncio.Future[None]]] = deque()
        self._conn: AsyncConnection[Any] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._busy_since: float | None = None
        self._failure = ""
        self._pause_s = 0.0
        self._not_before = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def busy_since(self) -> float | None:
        """When the write that goes on was begun (monotonic time); None if none does."""
        return self._busy_since

    def append(self, webhook: ReceivedWebhook) -> asyncio.Future[None]:
        """Append a webhook. The future is done when it is on the server's disk; it fails with IntakeUnavailable."""
        self.waiting += 1
        return self._submit(as_row(webhook))

    def check_writable(self) -> asyncio.Future[None]:
        """Commit something harmless. The future fails with IntakeUnavailable."""
        return self._submit(None)

    async def close(self) -> None:
        """Wait until everything that was submitted is on disk or has failed, then close the connection."""
        self._is_closed = True
        if self._again is not None:
            self._again.cancel()
        while self._writing is not None:
            await asyncio.wait([self._writing])
        await self._hang_up()

    def _submit(self, row: Row | None) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._rows.append((row, future))
        if self._writing is None:  # it begins once everything that is ready now has been submitted
            self._writing = self._loop.create_task(self._write_all())
        return future

    async def _write_all(self) -> None:
        try:
            while self._rows:
                batch = self._batch()
                rows = [row for row, _ in batch if row is not None]
                self._busy_since = time.monotonic()
                try:
                    why = await self._write(rows)
                finally:
                    self._busy_since = None
                self._written(batch, len(rows), why)
        finally:
            self._writing = None

    def _batch(self) -> list[tuple[Row | None, asyncio.Future[None]]]:
        batch: list[tuple[Row | None, asyncio.Future[None]]] = []
        size = 0
        while self._rows and len(batch) < self.most and size < BATCH_BYTES:
            row, future = self._rows.popleft()
            batch.append((row, future))
            size += 0 if row is None else len(row[-1])
        return batch

    def _written(
        self, batch: Sequence[tuple[Row | None, asyncio.Future[None]]], appended: int, why: str | None
    ) -> None:
        self.waiting -= appended
        for _, future in batch:
            if future.done():  # its request was cancelled
                continue
            if why is None:
                future.set_result(None)
            else:
                future.set_exception(IntakeUnavailable(why))
        self._trouble.note(why)
        if appended and why is None:
            self._appended()

    async def _write(self, rows: Sequence[Row]) -> str | None:
        """Append rows in one commit; without any, commit something harmless. Returns why that failed."""
        try:
            conn = await self._connected()
            if rows:
                await answer(conn, _APPEND, [list(column) for column in zip(*rows, strict=True)])
            else:
                await _check(conn)
                await answer(conn, _TOUCH)
        except psycopg.Error as error:
            why = f"{self._url}: {explain(error)}"
        except LedgerError as error:
            why = f"{self._url}: {error}".replace(f"{self._url}: {self._url}", str(self._url))
        except Exception as error:  # whatever it is, each webhook must be answered
            log.exception("intake failed")
            why = f"{type(error).__name__}: {error}"
        except BaseException:
            await self._hang_up()
            raise
        else:
            self._pause_s = 0.0
            return None
        await self._give_up(why)
        return why

    async def _give_up(self, why: str) -> None:
        """Connect again after a pause, whatever failed: the next server may be another one."""
        await self._hang_up()
        if time.monotonic() < self._not_before:
            return
        pause_s, self._pause_s = self._pause_s, min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._failure, self._not_before = why, time.monotonic() + pause_s
        if not self._is_closed:
            self._again = self._loop.call_later(pause_s, self._try_again)

    def _try_again(self) -> None:
        if not self._rows and not self._is_closed:
            self.check_writable().add_done_callback(lambda future: future.exception())

    async def _connected(self) -> AsyncConnection[Any]:
        if self._conn is not None and _is_silent(self._conn):
            return self._conn
        await self._hang_up()
        if time.monotonic() < self._not_before:
            raise IntakeUnavailable(self._failure)
        self._conn = conn = await connect(self._url, target_session_attrs="read-write")
        await answer(conn, f"SET statement_timeout = '{STATEMENT_S}s'")
        await _check(conn)
        [[is_there]] = await answer(conn, _IS_THERE)
        if not is_there:
            await asyncio.to_thread(make_tables, self._url)
        await answer(conn, "SELECT continue_intake()")
        return conn

    async def _hang_up(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()


async def _check(conn: AsyncConnection[Any]) -> None:
    """Refuse a server that acknowledges what a crash of its machine would lose. One that does not tell is trusted."""
    try:
        [[commit, fsync, encoding]] = await answer(conn, _SETTINGS)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject):
        return
    for name, value in (("synchronous_commit", commit), ("fsync", fsync)):
        if value == "off":
            raise IntakeUnavailable(
                f"{name} is off in PostgreSQL: it would acknowledge webhooks that a crash loses; turn it on"
            )
    if encoding != "UTF8":
        raise IntakeUnavailable(f"the database's encoding is {encoding}: make one with ENCODING 'UTF8'")


def _is_silent(conn: AsyncConnection[Any]) -> bool:
    """Whether an idle connection is still open. Then nothing is to be read from it."""
    if conn.closed:
        return False
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    return not poll.poll(0)
