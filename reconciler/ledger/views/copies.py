"""The copies of a service that share a ledger in PostgreSQL, and which one of them works."""

from __future__ import annotations

import msgspec

from reconciler.ledger.storage import advisory, meta
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.receivers_table import HELD, own_host
from reconciler.ledger.storage.sqlite import SqliteDatabase

_WORKER = "worker"
_RECEIVERS = f"SELECT host, service FROM receivers WHERE {HELD}"


class Copy(msgspec.Struct, frozen=True, order=True):
    """A copy that is connected: its host and process. One of them `works`: it records, polls and delivers. The others
    only receive, and stand by.
    """

    host: str
    process: int
    works: bool


def note_worker(db: Database, process: int) -> None:
    """This process has the ledger now. The caller holds the transaction."""
    meta.put(db, _WORKER, f"{process} {own_host()}")


def copies(db: Database) -> list[Copy]:
    """All of them, by host. None with a ledger in SQLite, which no copies can share."""
    if isinstance(db, SqliteDatabase):
        return []
    there: set[tuple[str, int]] = {(host, process) for host, process in db.execute(_RECEIVERS)}
    process, _, host = (meta.get(db, _WORKER) or "").partition(" ")
    is_held = db.execute(advisory.HELD, (advisory.SERVICE,)).fetchone() is not None
    works = (host, int(process)) if is_held and process.isdecimal() else None
    return sorted(Copy(*one, works=one == works) for one in there | ({works} if works else set()))
