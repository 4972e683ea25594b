"""The note, in the table `meta`, that a ledger is an unfinished copy: only `ledger copy` may use it."""

from __future__ import annotations

from reconciler.ledger.errors import LedgerError
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database

NAME = "copying"


def refuse(db: Database, where: str) -> None:
    """Raise LedgerError if a copy to this ledger was begun and not finished."""
    if meta.get(db, NAME) is not None:
        raise LedgerError(
            f"{where}: is an unfinished copy of another ledger: run the same `gitlab-reconciler ledger copy` again"
        )
