"""What a piece of work costs a ledger, as counts: wall clocks differ from machine to machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase

_TUPLES = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"


class Cost:
    """What the ledger was asked for, and how much it did for it."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        """Of SQLite only."""
        self.steps = 0
        """In tens of SQLite's instructions, or in rows that PostgreSQL read."""

    def step(self) -> None:
        self.steps += 1


@contextmanager
def counted(db: Database) -> Iterator[Cost]:
    """Count what a ledger is asked for."""
    cost = Cost()
    if isinstance(db, SqliteDatabase):
        db.conn.set_trace_callback(cost.statements.append)
        db.conn.set_progress_handler(cost.step, 10)
        yield cost
        db.conn.set_trace_callback(None)
        db.conn.set_progress_handler(None, 0)
    else:
        db.begin()  # it counts by transaction
        before = db.execute(_TUPLES).fetchone()[0] or 0
        yield cost
        cost.steps = int((db.execute(_TUPLES).fetchone()[0] or 0) - before)
        db.rollback()
