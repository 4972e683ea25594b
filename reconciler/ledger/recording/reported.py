"""Which keys have sightings, without matching them."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from sqlite_utils import Database

REPORTED = """
    SELECT asked.value FROM json_each(?) AS asked
     WHERE EXISTS (SELECT 1 FROM sightings AS s WHERE s.key = asked.value)
"""


def reported_keys(db: Database, keys: Iterable[str]) -> set[str]:
    """Those of these keys of which the ledger has a sighting."""
    return {key for (key,) in db.conn.execute(REPORTED, (orjson.dumps(list(keys)).decode(),))}
