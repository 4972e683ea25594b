"""Sightings are found by hashes instead of by their texts."""

from __future__ import annotations

from typing import Any

from reconciler.ledger.storage import hashes
from reconciler.ledger.storage.migrations import migrations, run


@migrations(name="0013_hashes")
def _hashes(db: Any) -> None:
    """The sightings themselves are not rewritten, so this needs little space, and seconds for a million events."""
    run(
        db,
        """
        CREATE TABLE sighting_hashes (  -- made of `sightings`: finds them by their sources' ids and by their keys
            sighting_id INTEGER PRIMARY KEY REFERENCES sightings(id),
            id_hash INTEGER NOT NULL,  -- of source and source id
            key_hash INTEGER NOT NULL,
            happened_ms INTEGER NOT NULL  -- when it happened, in milliseconds since 1970
        )
        """,
    )
    hashes.fill(db.conn)
    run(
        db,
        "CREATE INDEX sighting_hashes_by_id ON sighting_hashes (id_hash)",
        "CREATE INDEX sighting_hashes_by_moment ON sighting_hashes (key_hash, happened_ms)",
        """
        CREATE TRIGGER sightings_deleted AFTER DELETE ON sightings BEGIN
            DELETE FROM sighting_hashes WHERE sighting_id = OLD.id;
        END
        """,
        "DROP INDEX sightings_by_source_id",
        "DROP INDEX sightings_by_moment",
    )
