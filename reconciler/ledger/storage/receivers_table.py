"""The receivers of an intake in PostgreSQL: which processes they are, on which hosts, when each was last alive, and
why it can't accept webhooks.

Each holds an advisory lock under its id for as long as its connection lasts. The server releases it, however the
process or its machine ended.
"""

from __future__ import annotations

import socket

from reconciler.events import times
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.receivers import Receiver

LOCKS = 0x676C7272
"""The advisory locks of receivers, beside their ids."""

HELD = f"""
    EXISTS (SELECT 1 FROM pg_locks
             WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid::bigint = {LOCKS}
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND objid::bigint = receivers.id)
"""
_NOTED = "SELECT pid, service, alive_at, reloads, error, since, failure, failing_since FROM receivers"


def noted(db: Database) -> list[Receiver]:
    """All that have written to it, also those that ended last."""
    return _receivers(db, f"{_NOTED} ORDER BY since, id", ())


def running(db: Database, *, host: str | None = None) -> list[Receiver]:
    """Those that are connected, on one host or on any."""
    return _receivers(
        db, f"{_NOTED} WHERE {HELD} AND host = coalesce(CAST(? AS text), host) ORDER BY since, id", (host,)
    )


def own_host() -> str:
    """The host's name, which a container has of its own."""
    return socket.gethostname()


def _receivers(db: Database, sql: str, parameters: tuple[str | None, ...]) -> list[Receiver]:
    return [
        Receiver(
            pid=pid,
            service=service,
            alive_at=times.from_iso(alive_at),
            reloads=reloads,
            error=error,
            since=times.from_iso(since),
            failure=failure,
            failing_since=None if failing_since is None else times.from_iso(failing_since),
        )
        for pid, service, alive_at, reloads, error, since, failure, failing_since in db.execute(sql, parameters)
    ]
