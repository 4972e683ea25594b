"""A part of a transaction that is undone alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.ledger.storage.database import Database


@contextmanager
def savepoint(db: Database) -> Iterator[None]:
    """Undo what the block did in the open transaction if it raises.

    SQLite itself undoes the whole transaction if the disk is full. Then there is no savepoint left, and an error that
    says so would hide why.
    """
    db.execute("SAVEPOINT step")
    try:
        yield
    except BaseException:  # also when interrupted: nothing is half done
        if db.in_transaction:
            db.execute("ROLLBACK TO step")
        raise
    finally:
        if db.in_transaction:
            db.execute("RELEASE step")
