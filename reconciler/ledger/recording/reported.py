"""Rule 1: what a source reports again, under the same id, is not new. And which keys have sightings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import orjson

from reconciler.events.sighting import Recovery, Sighting
from reconciler.ledger.recording.assign import richness
from reconciler.ledger.storage import columns, hashes
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import IDS, Sql, joined, look_up

_NAMED = "SELECT s.source, s.source_id, s.event_id, s.payload_sha, s.recovery FROM"
_SIGHTINGS = look_up("sightings", "s", "s.id = h.sighting_id")
ONE_KNOWN = joined(_NAMED, "sighting_hashes AS h", _SIGHTINGS, "WHERE h.id_hash = ?")
KNOWN = joined(_NAMED, IDS, look_up("sighting_hashes", "h", "h.id_hash = ids.value"), _SIGHTINGS)

KEYS = Sql(
    """
    SELECT asked.value ->> 1 FROM json_each(?) AS asked
     WHERE EXISTS (SELECT 1 FROM sighting_hashes AS h CROSS JOIN sightings AS s ON s.id = h.sighting_id
                    WHERE h.key_hash = asked.value ->> 0 AND s.key = asked.value ->> 1)
    """,
    postgresql=f"""
    SELECT asked.value ->> 1 FROM jsonb_array_elements(?::jsonb) AS asked (value)
     CROSS JOIN LATERAL (SELECT 1 FROM sighting_hashes AS h {_SIGHTINGS.postgresql}
                          WHERE h.key_hash = (asked.value ->> 0)::bigint AND s.key = asked.value ->> 1
                          LIMIT 1) AS found
    """,
)


class Reported(msgspec.Struct, frozen=True):
    """What the ledger has under a source's id: its event, and its body's fingerprint.

    `sha` is None if the stored body is not complete.
    """

    event_id: int
    sha: str | None


Names = dict[tuple[str, str], Reported]


def known(db: Database, sightings: Sequence[Sighting]) -> tuple[Names, list[Sighting]]:
    """Which of these sightings their source has reported before. Returns them too, each with a unique id.

    A proxy may send different deliveries under one `Idempotency-Key`, so a body that differs gets an id of its own.
    """
    found = _look_up(db, sightings)
    own = list(sightings)
    if not found and len(own) == 1:
        return found, own
    bodies = {name: one.sha for name, one in found.items()}
    others = []
    for index, sighting in enumerate(sightings):
        sha = _sha(sighting)
        name = (sighting.source, sighting.source_id)
        first = bodies.get(name)
        if first is None:
            bodies[name] = sha
        elif sha is not None and sha != first:
            own[index] = msgspec.structs.replace(sighting, source_id=f"{sighting.source_id}:{sha[:32]}")
            others.append(own[index])
    return found | _look_up(db, others) if others else found, own


def reported_keys(db: Database, keys: Iterable[str]) -> set[str]:
    """Those of these keys of which the ledger has a sighting."""
    asked = orjson.dumps([(hashes.key_hash(key), key) for key in keys]).decode()
    return {key for (key,) in db.execute(KEYS, (asked,))}


def _look_up(db: Database, sightings: Sequence[Sighting]) -> Names:
    """What the ledger has under these names, and under those that happen to have the same hash."""
    asked = [hashes.id_hash(one.source, one.source_id) for one in sightings]
    rows = db.execute(ONE_KNOWN, asked) if len(asked) == 1 else db.execute(KNOWN, (orjson.dumps(asked).decode(),))
    return {
        (source, source_id): Reported(event_id, None if _is_cut(columns.recovery(recovery)) else sha)
        for source, source_id, event_id, sha, recovery in rows
    }


def _sha(s: Sighting) -> str | None:
    """The fingerprint of a delivery's complete body. None for what GitLab may word differently at each request."""
    return None if not richness(s.source) or _is_cut(s.recovery) else s.payload_sha


def _is_cut(recovery: Recovery | None) -> bool:
    """Whether a body is incomplete: GitLab's hook log redacts some fields."""
    return recovery is not None and (recovery.by != "hook_log" or bool(recovery.redacted))
