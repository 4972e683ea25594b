"""The stored values of a sighting's precision get names that a reader can guess."""

from __future__ import annotations

from typing import Any

from reconciler.ledger.storage.migrations import migrations, run

RENAMED = {
    "once": "unique_id",
    "stated": "gitlab_time",
    "received": "received_time",
    "alone": "received_unverified",
    "loose": "received_repeatable",
    "estimated": "estimated_time",
    "guessed": "estimated_unverified",
}


@migrations(name="0012_precision")
def _precision(db: Any) -> None:
    cases = " ".join(f"WHEN '{old}' THEN '{new}'" for old, new in RENAMED.items())
    names = ", ".join(f"'{old}'" for old in RENAMED)
    run(db, f"UPDATE sightings SET precision = CASE precision {cases} END WHERE precision IN ({names})")
