"""Opening a ledger in PostgreSQL: for a moment, or to serve it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg

from reconciler.ledger.errors import LedgerBehind, LedgerError, LedgerUnavailable
from reconciler.ledger.storage import advisory, postgresql_schema, sessions, unfinished
from reconciler.ledger.storage.explaining import explain
from reconciler.ledger.storage.postgresql import PostgresDatabase, connect, hold, refuse_read_only
from reconciler.location import PostgresUrl

LOOK_PATIENCE_S = 1.0


def open_server(url: PostgresUrl, *, patience_s: float, readonly: bool) -> PostgresDatabase:
    """Connect to a ledger. Unless `readonly`, its tables are made or upgraded first, if no service has it.

    Raises LedgerError.
    """
    with in_words(url):
        return _open(url, patience_s=patience_s, readonly=readonly)


def _open(url: PostgresUrl, *, patience_s: float, readonly: bool) -> PostgresDatabase:
    if not readonly:
        _bring_up(url, patience_s)
    db = connect(url.value, patience_s=patience_s, readonly=readonly)
    try:
        postgresql_schema.check(db, str(url), may_upgrade=False)
        unfinished.refuse(db, str(url))
    except BaseException:
        db.close()
        raise
    db.give_up_after(None)  # what a command asks may take long
    return db


def open_to_serve(url: PostgresUrl, *, patience_s: float, to_copy: bool = False) -> PostgresDatabase | None:
    """Connect as the one worker of a ledger. None if another one has it. Its tables are made or upgraded. Only
    `to_copy` may it be an unfinished copy.

    Raises LedgerError.
    """
    with in_words(url):
        return _hold(url, patience_s=patience_s, to_copy=to_copy)


def _hold(url: PostgresUrl, *, patience_s: float, to_copy: bool) -> PostgresDatabase | None:
    db = hold(url.value, advisory.SERVICE, patience_s=patience_s, first=lambda db: _refuse_shared(db, url))
    if db is None:
        return None
    try:
        postgresql_schema.check(db, str(url), may_upgrade=True)
        _refuse_without_rights(db, url)
        db.give_up_after(None)  # an upgrade may take long
        postgresql_schema.upgrade(db)
        if not to_copy:
            unfinished.refuse(db, str(url))
    except BaseException:
        db.close()
        raise
    return db


def unfit(url: PostgresUrl) -> str | None:
    """Why a service could not take the ledger over from here, if so, with what to do."""
    try:
        with in_words(url), closing(connect(url.value, patience_s=LOOK_PATIENCE_S)) as db:
            refuse_read_only(db)
            _refuse_shared(db, url)
            postgresql_schema.check(db, str(url), may_upgrade=True)
            _refuse_without_rights(db, url)
    except LedgerError as error:
        return str(error)
    return None


def _refuse_shared(db: PostgresDatabase, url: PostgresUrl) -> None:
    if (wrong := sessions.shared(db, url.value)) is not None:
        raise LedgerError(f"{url}: {wrong}")


def _refuse_without_rights(db: PostgresDatabase, url: PostgresUrl) -> None:
    user, schema, lacks = db.execute(_LACKS_RIGHTS, (postgresql_schema.TABLES,)).fetchone()
    if schema is None:
        raise LedgerUnavailable(f"{url}: there is no schema that the user {user} may use: {_ADVICE['3F000']}")
    if lacks is not None:
        raise LedgerUnavailable(
            f"{url}: the user {user} may not read or write {lacks}: make it the owner of the tables"
        )


_LACKS_RIGHTS = """
    SELECT current_user::text, current_schema()::text, string_agg(relname::text, ', ' ORDER BY relname) FROM pg_class
     WHERE relnamespace = current_schema()::regnamespace
       AND CASE WHEN relkind = 'r' AND relname::text = ANY(?) THEN
                     NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                          AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
                WHEN relkind = 'S' AND relname IN ('changes', 'event_numbers') THEN
                     NOT (has_sequence_privilege(oid, 'SELECT') AND has_sequence_privilege(oid, 'UPDATE'))
           END
"""


@contextmanager
def in_words(url: PostgresUrl) -> Iterator[None]:
    """What PostgreSQL refuses here is about the database, not about a statement of ours. Raises LedgerError."""
    try:
        yield
    except psycopg.Error as error:
        advice = _ADVICE.get(error.sqlstate or "", "is this database for gitlab-reconciler alone, and new?")
        raise LedgerError(f"{url}: {explain(error)}: {advice}") from error


_ADVICE = {
    "0A000": "the server needs ICU",
    "3F000": "create a schema, or set search_path to one",
    "42P07": "there are tables of other programs: use a database, or a schema, of its own",
    "42703": "there are tables of other programs: use a database, or a schema, of its own",
    "22023": "a setting is refused: the server must run on Linux, with PostgreSQL 14 or newer",
}


def _bring_up(url: PostgresUrl, patience_s: float) -> None:
    try:
        with closing(connect(url.value, patience_s=patience_s, readonly=True)) as db:
            postgresql_schema.check(db, str(url), may_upgrade=False)
    except LedgerBehind as error:
        held = open_to_serve(url, patience_s=patience_s)
        if held is None:
            why = "a service has it now, so that it is left as it is: restart that service with this version"
            raise LedgerBehind(f"{error}; {why}") from None
        held.close()
