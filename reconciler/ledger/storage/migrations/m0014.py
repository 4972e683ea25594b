"""The attempts of a destination by their time, for the charts of its page."""

from __future__ import annotations

from typing import Any

from reconciler.ledger.storage.migrations import migrations, run

ATTEMPTS_BY_DESTINATION = (
    "CREATE INDEX attempts_by_destination ON attempts (destination_id, started_at, duration_ms, error_class)"
)


@migrations(name="0014_attempts_by_destination")
def _attempts_by_destination(db: Any) -> None:
    run(db, ATTEMPTS_BY_DESTINATION)
