"""The intake of a ledger and the register of its receivers, wherever that is: beside its file, or in its database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

from reconciler.ledger.errors import LedgerError
from reconciler.ledger.intake.appender import SqliteAppender
from reconciler.ledger.intake.file import intake_path
from reconciler.ledger.intake.intake import Appender, Reader
from reconciler.ledger.intake.reader import SqliteReader
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.storage.lock import lock_file
from reconciler.ledger.storage.receivers import ReceiverFile, Register, receivers_path
from reconciler.location import Location, PostgresUrl


def appender(
    ledger: Location,
    *,
    appended: Callable[[], None] = lambda: None,
    trouble: Callable[[str | None], None] = lambda _: None,
) -> Appender:
    """Appends to the intake of a ledger, from this event loop. See `SqliteAppender`. Raises LedgerError."""
    if isinstance(ledger, PostgresUrl):
        try:
            from reconciler.ledger.intake.postgresql import PostgresAppender
        except ImportError as error:
            raise _missing(ledger, error) from error
        return PostgresAppender(ledger, appended=appended, trouble=trouble)
    return SqliteAppender(intake_path(ledger), appended=appended, trouble=trouble)


def opener(ledger: Location) -> Callable[[], Reader]:
    """Opens the intake of a ledger, for the recorder. Raises LedgerError."""
    if isinstance(ledger, PostgresUrl):
        try:
            from reconciler.ledger.intake.postgresql_reader import PostgresReader
        except ImportError as error:
            raise _missing(ledger, error) from error
        return partial(PostgresReader, ledger)
    return partial(SqliteReader, intake_path(ledger))


def register(ledger: Location, *, service: int) -> Register:
    """Where a receiver notes that it is alive. `service` is the process to ask for a reload. Raises LedgerError."""
    if isinstance(ledger, PostgresUrl):
        try:
            from reconciler.ledger.storage.receiver_row import ReceiverRow
        except ImportError as error:
            raise _missing(ledger, error) from error
        return ReceiverRow(ledger, service=service)
    return ReceiverFile(intake_path(ledger), service=service)


Listen = Callable[[Callable[[], None], Callable[[Iterable[Opened]], None]], Awaitable[None]]


def listener(ledger: Location) -> Listen | None:
    """Calls a function whenever webhooks were appended, and another with deliveries that were opened, and never ends.
    None if nobody tells. Raises LedgerError.
    """
    if not isinstance(ledger, PostgresUrl):
        return None
    try:
        from reconciler.ledger.intake.listening import listen
    except ImportError as error:
        raise _missing(ledger, error) from error
    return partial(listen, ledger)


def shown(ledger: Location) -> str:
    """Where the intake of a ledger is."""
    return str(ledger if isinstance(ledger, PostgresUrl) else intake_path(ledger))


def files(ledger: Path) -> list[Path]:
    """All files of a ledger in SQLite, whether they are there now or not."""
    real, intake = ledger.resolve(), intake_path(ledger)
    databases = [one.with_name(one.name + end) for one in (real, intake) for end in ("", "-wal", "-shm", "-journal")]
    return [*databases, lock_file(ledger), receivers_path(intake)]


def _missing(url: PostgresUrl, error: ImportError) -> LedgerError:
    return LedgerError(f"{url}: needs `pip install 'gitlab-reconciler[postgresql]'`: {error}")
