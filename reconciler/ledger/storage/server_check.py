"""What `check` looks at before a ledger in PostgreSQL is relied on: the server's version and settings, and whether
every statement of a connection reaches the same session.
"""

from __future__ import annotations

from contextlib import closing

from reconciler.ledger.storage.postgresql import PostgresDatabase, connect
from reconciler.location import PostgresUrl

OLDEST = 140000
"""`idle_session_timeout` and `client_connection_check_interval` came with PostgreSQL 14."""
PATIENCE_S = 5.0


def problems(url: PostgresUrl) -> list[str]:
    """What is wrong with the server, with what to do. Raises LedgerUnavailable if it can't be asked."""
    with closing(_connected(url)) as db, closing(_connected(url)) as other:
        return [*_version(db), *_durability(db), *_session(db, other)]


def _connected(url: PostgresUrl) -> PostgresDatabase:
    return connect(url.value, patience_s=PATIENCE_S)


def _version(db: PostgresDatabase) -> list[str]:
    number, name = db.execute(
        "SELECT CAST(current_setting('server_version_num') AS integer), current_setting('server_version')"
    ).fetchone()
    return [] if number >= OLDEST else [f"the server is PostgreSQL {name}: 14 or newer is needed"]


def _durability(db: PostgresDatabase) -> list[str]:
    commit, fsync, standbys = db.execute(
        "SELECT current_setting('synchronous_commit'), current_setting('fsync'),"
        " current_setting('synchronous_standby_names')"
    ).fetchone()
    found = []
    if fsync == "off":
        found.append("fsync is off: a crash of its machine loses what was acknowledged; turn it on")
    if commit == "off":
        found.append("synchronous_commit is off: a crash loses what was acknowledged; turn it on")
    elif standbys and commit == "local":
        found.append(
            "synchronous_commit is `local`: what was acknowledged is lost if a standby takes over; set it to `on`"
        )
    return found


def _session(db: PostgresDatabase, other: PostgresDatabase) -> list[str]:
    """A pooler that shares connections gives the session that was free first to whoever asks next."""
    seen = {_session_of(db)}
    for _ in range(3):
        other.execute("BEGIN")
        try:
            _session_of(other)
            seen.add(_session_of(db))
        finally:
            other.rollback()
    if len(seen) == 1:
        return []
    return [
        "statements of one connection reach different sessions: a pooler like PgBouncer shares them between "
        "connections. The locks of a ledger belong to a session: connect to PostgreSQL directly, or to a pool with "
        "pool_mode = session"
    ]


def _session_of(db: PostgresDatabase) -> int:
    pid: int = db.execute("SELECT pg_backend_pid()").fetchone()[0]
    return pid
