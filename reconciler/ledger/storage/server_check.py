"""What `check` looks at before a ledger in PostgreSQL is relied on: the server's version and settings, the database,
and whether every statement of a connection reaches the same session.
"""

from __future__ import annotations

from contextlib import closing

from reconciler.ledger.errors import LedgerUnavailable
from reconciler.ledger.storage import sessions
from reconciler.ledger.storage.postgresql import PostgresDatabase, connect
from reconciler.ledger.storage.receivers_table import HELD
from reconciler.location import PostgresUrl

OLDEST = 140000
"""`idle_session_timeout` and `client_connection_check_interval` came with PostgreSQL 14."""
PATIENCE_S = 5.0
OF_A_COPY = 10
"""A copy has seven connections that last, and others for a moment: for a page, for metrics, for a command."""

_NO_ICU = """
    SELECT NOT EXISTS (SELECT 1 FROM pg_collation WHERE collprovider = 'i')
"""
_CONNECTIONS = """
    SELECT CAST(current_setting('max_connections') AS integer)
           - CAST(current_setting('superuser_reserved_connections') AS integer)
           - CAST(coalesce(current_setting('reserved_connections', true), '0') AS integer),
           (SELECT count(*) FROM pg_stat_activity
             WHERE usesysid IS NOT NULL AND datid IS NOT NULL
               AND application_name IS DISTINCT FROM current_setting('application_name'))
"""
_THERE = "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'receivers'"
_COPIES = f"SELECT count(DISTINCT (host, service)) FROM receivers WHERE {HELD}"


def problems(url: PostgresUrl) -> list[str]:
    """What is wrong with the server, with what to do. Raises LedgerUnavailable if it can't be asked."""
    try:
        db = _connected(url)
    except LedgerUnavailable:
        if (why := _standby(url)) is None:
            raise
        return [why]
    with closing(db), closing(_connected(url)) as other:
        found = [*_version(db), *_durability(db), *_database(db), *_connections(db)]
        return [*found, *([sessions.SHARED] if sessions.differ(db, other) else [])]


def _connected(url: PostgresUrl) -> PostgresDatabase:
    return connect(url.value, patience_s=PATIENCE_S)


def _standby(url: PostgresUrl) -> str | None:
    """What to do about a server that can only be read."""
    try:
        with closing(connect(url.value, patience_s=PATIENCE_S, readonly=True)) as db:
            is_standby = db.execute("SELECT pg_is_in_recovery()").fetchone()[0]
    except LedgerUnavailable:
        return None
    if is_standby:
        return (
            "the server is a standby, which can't be written: name the primary, or both: postgresql://one,two/events"
        )
    return "the server is read-only for this user: set default_transaction_read_only to off"


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


def _database(db: PostgresDatabase) -> list[str]:
    [encoding] = db.execute("SELECT current_setting('server_encoding')").fetchone()
    found = []
    if encoding != "UTF8":
        found.append(
            f"the database's encoding is {encoding}, which can't store every text: make one with "
            "`createdb --encoding UTF8 --template template0`"
        )
    if db.execute(_NO_ICU).fetchone()[0]:
        found.append("the server has no ICU collations, which compare the paths of projects: install one with ICU")
    return found


def _connections(db: PostgresDatabase) -> list[str]:
    """Whether all copies that run, or the first one, get the connections that they need beside those of others."""
    most, others = db.execute(_CONNECTIONS).fetchone()
    copies = max(1, db.execute(_COPIES).fetchone()[0]) if db.execute(_THERE).fetchone() else 1
    need = copies * OF_A_COPY
    if others + need <= most:
        return []
    who = "a copy of the service needs" if copies == 1 else f"{copies} copies of the service need"
    return [
        f"the server accepts {most} connections (max_connections, without those that are reserved), others use "
        f"{others}, and {who} up to {need}: raise max_connections"
    ]
