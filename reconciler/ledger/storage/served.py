"""Whether a service runs with a ledger, wherever the ledger is."""

from __future__ import annotations

from pathlib import Path

from reconciler.ledger.storage import advisory
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.lock import service_process
from reconciler.location import Location


def is_served(location: Location) -> bool:
    """Whether a service has a ledger. One in PostgreSQL may have it on another machine."""
    if isinstance(location, Path):
        return service_process(location) is not None
    with opened(location, readonly=True) as db:
        return any(db.execute(advisory.HELD, (one,)).fetchone() for one in (advisory.SERVICE, advisory.COPIES))
