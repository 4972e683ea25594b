"""A receiver's own row in PostgreSQL (`receivers_table`)."""

from __future__ import annotations

import secrets

import msgspec
import psycopg

from reconciler.events import times
from reconciler.events.times import HOUR, Millis
from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.storage import postgresql, sessions
from reconciler.ledger.storage.explaining import explain
from reconciler.ledger.storage.postgresql import PostgresDatabase
from reconciler.ledger.storage.postgresql_tables import make_tables
from reconciler.ledger.storage.receivers import Register
from reconciler.ledger.storage.receivers_table import HELD, LOCKS, own_host
from reconciler.location import PostgresUrl

FORGOTTEN = HOUR
"""A receiver that has ended and was not heard for so long is removed."""
PATIENCE_S = 2.0
_TRIES = 10

_KEEPALIVE = """
    SELECT set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false),
           set_config('tcp_keepalives_count', '4', false), set_config('statement_timeout', '8s', false)
"""
"""Otherwise the server would keep the lock of a machine that is gone for two hours."""
_LOCK = "SELECT pg_try_advisory_lock(?, ?)"
_REMOVE = f"DELETE FROM receivers WHERE alive_at < ? AND NOT {HELD}"
_WRITE = """
    INSERT INTO receivers (id, host, pid, service, alive_at, reloads, error, since, failure, failing_since)
    VALUES (:id, :host, :pid, :service, :alive_at, :reloads, :error, :since, :failure, :failing_since)
    ON CONFLICT (id) DO UPDATE SET
        alive_at = excluded.alive_at, reloads = excluded.reloads, error = excluded.error,
        since = excluded.since, failure = excluded.failure, failing_since = excluded.failing_since
"""


class ReceiverRow(Register):
    """Writes a receiver's row. The methods raise LedgerUnavailable; the next call connects again."""

    def __init__(self, url: PostgresUrl, *, service: int) -> None:
        super().__init__(service=service)
        self._url = url
        self._host = own_host()
        self._id: int | None = None
        self._db: PostgresDatabase | None = None

    def close(self) -> None:
        """The receiver ends. Its row stays, and says when it was last alive."""
        with self._lock:
            self._disconnect()

    def _write(self) -> None:
        try:
            db = self._connected()
            self._put(db)
            db.execute(_REMOVE, (times.iso(Millis(times.now() - FORGOTTEN)),))
        except BaseException as error:
            self._disconnect()
            if isinstance(error, psycopg.Error):
                raise LedgerUnavailable(f"{self._url}: {explain(error)}") from error
            raise

    def _put(self, db: PostgresDatabase) -> None:
        own = self._own
        row = msgspec.structs.asdict(own)
        for name in ("alive_at", "since", "failing_since"):
            row[name] = None if row[name] is None else times.iso(row[name])
        db.execute(_WRITE, row | {"id": self._id, "host": self._host})

    def _connected(self) -> PostgresDatabase:
        if self._db is not None:
            return self._db
        before, self._id = self._id, None
        self._db = db = postgresql.connect(self._url.value, patience_s=PATIENCE_S)
        if (wrong := sessions.shared(db, self._url.value)) is not None:
            raise LedgerUnavailable(f"{self._url}: {wrong}")
        db.execute(_KEEPALIVE)
        make_tables(self._url)
        for _ in range(_TRIES):
            ident = secrets.randbits(31)
            if db.execute(_LOCK, (LOCKS, ident)).fetchone()[0]:
                break
        else:
            raise LedgerUnavailable(f"{self._url}: gives a receiver no advisory lock")
        self._id = ident
        if before is not None:
            # While it was not connected, webhooks may have been refused: it is there since now.
            db.execute("DELETE FROM receivers WHERE id = ?", (before,))
            self._own = msgspec.structs.replace(self._own, since=times.now())
        return db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()
