"""Opening a ledger in PostgreSQL: for a moment, or to serve it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg

from reconciler.ledger.errors import LedgerBehind, LedgerError, LedgerVersion
from reconciler.ledger.storage import advisory, postgresql_schema, unfinished
from reconciler.ledger.storage.postgresql import PostgresDatabase, connect, explain, hold, try_lock
from reconciler.location import PostgresUrl


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
    return db


def open_as_copy(url: PostgresUrl, *, patience_s: float) -> tuple[PostgresDatabase | None, bool]:
    """Connect as a copy of a service, and say whether it is the worker: if no other copy is. The worker makes or
    upgrades the tables. None if this copy can only wait: they are of another version, or `ledger copy` has them.

    Raises LedgerError.
    """
    with in_words(url):
        db = hold(url.value, advisory.COPIES, patience_s=patience_s, shared=True)
        if db is None:
            return None, False
        try:
            serves = try_lock(db, advisory.SERVICE)
            postgresql_schema.check(db, str(url), may_upgrade=serves)
            if serves:
                postgresql_schema.upgrade(db)
            unfinished.refuse(db, str(url))
        except (LedgerBehind, LedgerVersion):
            db.close()
            if serves:
                raise
            return None, False
        except BaseException:
            db.close()
            raise
        return db, serves


def open_to_copy(url: PostgresUrl, *, patience_s: float, may_be_unfinished: bool) -> PostgresDatabase | None:
    """Connect for `ledger copy`; None if a service has the ledger. Its tables are made or upgraded.

    Raises LedgerError.
    """
    with in_words(url):
        return _alone(url, patience_s=patience_s, may_be_unfinished=may_be_unfinished)


def _alone(url: PostgresUrl, *, patience_s: float, may_be_unfinished: bool) -> PostgresDatabase | None:
    db = hold(url.value, advisory.SERVICE, patience_s=patience_s)
    if db is None:
        return None
    try:
        if not try_lock(db, advisory.COPIES):  # one that is no worker may deliver
            db.close()
            return None
        postgresql_schema.check(db, str(url), may_upgrade=True)
        postgresql_schema.upgrade(db)
        if not may_be_unfinished:
            unfinished.refuse(db, str(url))
    except BaseException:
        db.close()
        raise
    return db


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
    "3F000": "there is no schema to make tables in: create one, or set search_path",
    "42P07": "there are tables of other programs: use a database, or a schema, of its own",
    "42703": "there are tables of other programs: use a database, or a schema, of its own",
    "22023": "a setting is refused: the server must run on Linux, with PostgreSQL 14 or newer",
}


def _bring_up(url: PostgresUrl, patience_s: float) -> None:
    try:
        with closing(connect(url.value, patience_s=patience_s, readonly=True)) as db:
            postgresql_schema.check(db, str(url), may_upgrade=False)
    except LedgerBehind as error:
        held = _alone(url, patience_s=patience_s, may_be_unfinished=False)
        if held is None:
            why = "a service has it now, so that it is left as it is: restart that service with this version"
            raise LedgerBehind(f"{error}; {why}") from None
        held.close()
