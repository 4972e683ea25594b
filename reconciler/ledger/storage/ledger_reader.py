"""Reading from a service's second connection, which sees only what is on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from reconciler.ledger.errors import LedgerDamaged, LedgerError, LedgerUnavailable
from reconciler.ledger.storage.connection import explain, is_damage, is_trouble
from reconciler.ledger.storage.database import Database

T = TypeVar("T")


class LedgerReader:
    """A read-only connection. What the database raises becomes a LedgerError, with the original chained."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def __call__(self, query: Callable[[Database], T]) -> T:
        """The result of a query. Raises LedgerError if it can't be read."""
        try:
            return query(self._db)
        except self._db.Error as error:
            kind = LedgerDamaged if is_damage(error) else LedgerUnavailable if is_trouble(error) else LedgerError
            raise kind(explain(error)) from error
