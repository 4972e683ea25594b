"""Opening a ledger in PostgreSQL: for a moment, or to serve it."""

from __future__ import annotations

from contextlib import closing

from reconciler.ledger.errors import LedgerBehind
from reconciler.ledger.storage import advisory, postgresql_schema, unfinished
from reconciler.ledger.storage.postgresql import PostgresDatabase, connect, hold
from reconciler.location import PostgresUrl


def open_server(url: PostgresUrl, *, patience_s: float, readonly: bool) -> PostgresDatabase:
    """Connect to a ledger. Unless `readonly`, its tables are made or upgraded first, if no service has it.

    Raises LedgerError.
    """
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


def open_to_serve(url: PostgresUrl, *, patience_s: float, to_copy: bool = False) -> PostgresDatabase | None:
    """Connect as the one worker of a ledger. None if another one has it. Its tables are made or upgraded. Only
    `to_copy` may it be an unfinished copy.

    Raises LedgerError.
    """
    db = hold(url.value, advisory.SERVICE, patience_s=patience_s)
    if db is None:
        return None
    try:
        postgresql_schema.check(db, str(url), may_upgrade=True)
        postgresql_schema.upgrade(db)
        if not to_copy:
            unfinished.refuse(db, str(url))
    except BaseException:
        db.close()
        raise
    return db


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
