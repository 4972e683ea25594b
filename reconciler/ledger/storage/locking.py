"""Takes PostgreSQL's advisory locks, also from a process that has stopped in the middle of a pipeline.

PostgreSQL's own time limits (`idle_session_timeout` and its like) begin when a statement has been answered. Between
the statements of a pipeline, `executemany` for example, the server waits for the next one without limit, as long as
the client's machine answers: while the process is stopped by a signal, or its container is paused.
"""

from __future__ import annotations

from reconciler.ledger.storage import advisory
from reconciler.ledger.storage.database import Database

SILENT_S = 6
"""Longer than `postgresql.TRUSTED_S`: by then the process does not rely on its locks any more."""

_END = f"""
    SELECT pg_terminate_backend(silent.pid)
      FROM (SELECT DISTINCT a.pid
              FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.database = a.datid
               AND a.datname = current_database() AND l.objid = ({advisory.LEDGER}::bigint & 4294967295)::oid
               AND a.wait_event = 'ClientRead' AND a.state_change < clock_timestamp() - make_interval(secs => ?)
               AND a.usename = current_user) AS silent
"""
"""Of one's own user: others may not be ended, and show no `wait_event`."""


def try_lock(db: Database, lock: int, *, shared: bool = False) -> bool:
    """Whether a connection has one of the `advisory` locks now, until it ends."""
    how = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
    if db.execute(f"SELECT {how}(?, {advisory.LEDGER})", (lock,)).fetchone()[0]:
        return True
    end_silent(db)
    return False


def end_silent(db: Database) -> None:
    """End the connections that hold a lock of this ledger and have said nothing to the server for `SILENT_S`."""
    db.execute(_END, (float(SILENT_S),))
