"""Makes the tables in PostgreSQL for whoever comes first: a receiver may start before the worker."""

from __future__ import annotations

from contextlib import closing

from reconciler.ledger.storage import postgresql, postgresql_schema
from reconciler.ledger.storage.answering import ANSWER_S
from reconciler.location import PostgresUrl

PATIENCE_S = 5.0
_MAKING_S = 60.0
"""Others may make them at the same time."""


def make_tables(url: PostgresUrl) -> None:
    """Make the tables, if there are none yet. Those of an earlier version stay. Raises LedgerUnavailable."""
    with closing(postgresql.connect(url.value, patience_s=_MAKING_S)) as db:
        if not postgresql_schema.applied(db):
            db.give_up_after(_MAKING_S + ANSWER_S)
            postgresql_schema.upgrade(db)
