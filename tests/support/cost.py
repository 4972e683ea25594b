"""What a piece of work costs a ledger, as counts: wall clocks differ from machine to machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.ledger.storage.sqlite import SqliteDatabase


class Cost:
    """What SQLite was asked for, and how much it did for it."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.steps = 0
        """In tens of its instructions."""

    def step(self) -> None:
        self.steps += 1


@contextmanager
def counted(db: SqliteDatabase) -> Iterator[Cost]:
    """Count what a ledger is asked for."""
    cost = Cost()
    db.conn.set_trace_callback(cost.statements.append)
    db.conn.set_progress_handler(cost.step, 10)
    yield cost
    db.conn.set_trace_callback(None)
    db.conn.set_progress_handler(None, 0)
