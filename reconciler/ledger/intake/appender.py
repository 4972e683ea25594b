"""Appends webhooks to the intake's file: many share one commit, and none waits for a timer.

INSERT and COMMIT both run on a thread of their own, so that the event loop reads the next requests meanwhile
(docs/benchmarks.md has the figures). Everything that is submitted during a commit goes into the next one.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.file import IntakeFile, explain, is_unusable
from reconciler.ledger.intake.intake import ReceivedWebhook
from reconciler.ledger.intake.replacing import open_or_replace
from reconciler.ledger.intake.rows import INSERT, Row, as_row
from reconciler.ledger.intake.trouble import Trouble
from reconciler.ledger.storage.files import Identity

BATCH = 512
"""At most so many webhooks share one commit."""

_TOUCH = "UPDATE intake SET checked = checked + 1"

log = structlog.get_logger(__name__)


class SqliteAppender:
    """Appends to the file at `path`. Use it from the event loop that created it.

    The file is opened for the first webhook, and again if it was moved, removed or damaged. `appended` is called
    after each commit, `trouble` when webhooks can't be appended (with the reason) and when they can be again (with
    None). Both are called on the event loop.
    """

    most = BATCH

    def __init__(
        self,
        path: Path,
        *,
        appended: Callable[[], None] = lambda: None,
        trouble: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self.waiting = 0
        self._path = path
        self._appended = appended
        self._trouble = Trouble(trouble)
        self._file: IntakeFile | None = None
        self._damage: sqlite3.Error | None = None
        """What was met in the file that was open before."""
        self._left: Identity | None = None
        """The file that was open before, if its log or itself was moved, removed or replaced."""
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._loop = asyncio.get_running_loop()
        self._rows: deque[tuple[Row | None, asyncio.Future[None]]] = deque()
        self._scheduled = False
        self._writing: asyncio.Future[str | None] | None = None
        self._busy_since: float | None = None

    @property
    def busy_since(self) -> float | None:
        """When the write that goes on was begun (monotonic time); None if none does."""
        return self._busy_since

    def append(self, webhook: ReceivedWebhook) -> asyncio.Future[None]:
        """Append a webhook. The future is done when it is on disk; it fails with IntakeUnavailable."""
        self.waiting += 1
        return self._submit(as_row(webhook))

    def check_writable(self) -> asyncio.Future[None]:
        """Commit something harmless. The future fails with IntakeUnavailable."""
        return self._submit(None)

    async def close(self) -> None:
        """Wait until everything that was submitted is on disk or has failed, then close the file."""
        while self._rows or self._writing is not None:
            await asyncio.sleep(0) if self._writing is None else await asyncio.wait([self._writing])
        self._disk.submit(self._close)
        await asyncio.to_thread(self._disk.shutdown)

    def _submit(self, row: Row | None) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._rows.append((row, future))
        self._schedule()
        return future

    def _schedule(self) -> None:
        """Write once everything that is ready now has been submitted, or after the commit that is going on."""
        if self._rows and not self._scheduled and self._writing is None:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch = [self._rows.popleft() for _ in range(min(self.most, len(self._rows)))]
        rows = [row for row, _ in batch if row is not None]
        self._busy_since = time.monotonic()
        self._writing = self._loop.run_in_executor(self._disk, self._write, rows)
        self._writing.add_done_callback(lambda writing: self._written(batch, len(rows), writing))

    def _written(
        self,
        batch: list[tuple[Row | None, asyncio.Future[None]]],
        appended: int,
        writing: asyncio.Future[str | None],
    ) -> None:
        self._writing = self._busy_since = None
        self.waiting -= appended
        why = writing.result()
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
        self._schedule()

    # On the thread of the disk

    def _write(self, rows: Sequence[Row]) -> str | None:
        """Append rows in one commit; without any, commit something harmless. Returns why that failed.

        The second try is with the file opened again: it may have been moved, removed or damaged.
        """
        why = self._try_to_write(rows)
        return why if why is None else self._try_to_write(rows)

    def _try_to_write(self, rows: Sequence[Row]) -> str | None:
        try:
            if self._file is None:
                self._file = self._open()
            conn = self._file.conn
            conn.execute("BEGIN IMMEDIATE")
            if rows:
                conn.executemany(INSERT, rows)
            else:
                conn.execute(_TOUCH)
            self._verify(self._file)
            conn.execute("COMMIT")
            self._verify(self._file)
        except IntakeUnavailable as error:
            why = str(error)
        except sqlite3.Error as error:
            why = f"{self._path}: {explain(error)}"
            self._damage = error if is_unusable(error) else None
        except Exception as error:  # whatever it is, each webhook must be answered
            log.exception("intake failed")
            why = f"{type(error).__name__}: {error}"
        else:
            return None
        self._close()
        return why

    def _open(self) -> IntakeFile:
        file = open_or_replace(self._path, self._damage)
        if self._left is not None and self._left == file.files.database:  # its log is another one
            file.renew()
        file.note_opening()
        self._damage = self._left = None
        return file

    def _verify(self, file: IntakeFile) -> None:
        """What is written to a file that is not at the path any more is lost."""
        trouble = file.files.trouble()
        if trouble is not None:
            self._left = file.files.database
            raise IntakeUnavailable(trouble)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
