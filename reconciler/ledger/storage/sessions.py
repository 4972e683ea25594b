"""Finds out whether a pooler shares sessions between connections: a ledger's locks belong to a session."""

from __future__ import annotations

from contextlib import closing

from reconciler.ledger.storage.postgresql import PostgresDatabase, connect

SHARED = (
    "statements of one connection reach different sessions: a pooler like PgBouncer shares them between "
    "connections. The locks of a ledger belong to a session: connect to PostgreSQL directly, or to a pool with "
    "pool_mode = session"
)
PATIENCE_S = 5.0


def shared(db: PostgresDatabase, url: str) -> str | None:
    """What is wrong with the way from a connection to its server, and what to do. Raises LedgerUnavailable.

    A pooler tells a connection a number of its own instead of its session's. Without one in between, this is a single
    question.
    """
    if db.conn.info.backend_pid == _session_of(db):
        return None
    with closing(connect(url, patience_s=PATIENCE_S)) as other:
        return SHARED if differ(db, other) else None


def differ(db: PostgresDatabase, other: PostgresDatabase) -> bool:
    """Whether the statements of `db` reach several sessions. A pooler that shares them gives the one that was free
    first to whoever asks next.
    """
    seen = {_session_of(db)}
    for _ in range(3):
        other.execute("BEGIN")
        try:
            _session_of(other)
            seen.add(_session_of(db))
        finally:
            other.rollback()
    return len(seen) > 1


def _session_of(db: PostgresDatabase) -> int:
    pid: int = db.execute("SELECT pg_backend_pid()").fetchone()[0]
    return pid
