"""The copies of a service that share a ledger in PostgreSQL: which one of them works, and who delivers what."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from reconciler.ledger.queue import sharing
from reconciler.ledger.queue.destinations import destination_states
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.receivers_table import HELD, own_host
from reconciler.ledger.storage.sqlite import SqliteDatabase

_WORKER = "worker"
_RECEIVERS = f"SELECT host, service FROM receivers WHERE {HELD}"


class Copy(msgspec.Struct, frozen=True, order=True):
    """A copy that is connected: its host and process. One of them `works`: it records and polls. Each `delivers` to
    some of the destinations.
    """

    host: str
    process: int
    works: bool
    delivers: list[str] = []

    @property
    def name(self) -> str:
        """What a person knows it by."""
        return f"{self.host} (process {self.process})"


def note_worker(db: Database, process: int) -> None:
    """This process has the ledger now. The caller holds the transaction."""
    meta.put(db, _WORKER, f"{process} {own_host()}")


def copies(db: Database) -> list[Copy]:
    """All of them, by host. None with a ledger in SQLite, which no copies can share."""
    if isinstance(db, SqliteDatabase):
        return []
    there: set[tuple[str, int]] = {(host, process) for host, process in db.execute(_RECEIVERS)}
    shared, states = sharing.look(db), destination_states(db)
    known = {number: (one.host, one.process) for number, one in shared.copies.items()}
    works = None if shared.worker is None else known.get(shared.worker) or _noted(db)
    delivers = defaultdict(list)
    for one in states:
        holder = known.get(shared.holders.get(one.id, 0))
        if shared.worker is not None and not shared.may_share:  # of an earlier version: it delivers to all
            holder = works
        if one.active and holder is not None:
            delivers[holder].append(one.name)
    found = there | set(known.values()) | ({works} if works else set())
    return sorted(Copy(*one, works=one == works, delivers=delivers[one]) for one in found)


def delivered_by(db: Database) -> dict[str, str]:
    """The copy that delivers to each destination, by the destination's name."""
    return {name: one.name for one in copies(db) for name in one.delivers}


def _noted(db: Database) -> tuple[str, int] | None:
    process, _, host = (meta.get(db, _WORKER) or "").partition(" ")
    return (host, int(process)) if process.isdecimal() else None
