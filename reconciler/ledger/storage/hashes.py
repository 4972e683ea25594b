"""Finds sightings by 64-bit hashes of their texts: of source and source id, and of the key.

Indexes of the texts themselves are large, and a new sighting goes into each at a random place, which is seldom in
memory and seldom shared with another one. An index of hashes is a fifth of that. Different texts may have the same
hash, so whoever finds a sighting by a hash must compare the text too.

The hashes are in the ledger's file: changing one of these functions needs a migration.
"""

from __future__ import annotations

import sqlite3
from hashlib import blake2b

from reconciler.events import times
from reconciler.events.times import EARLIEST, LATEST, Millis


def id_hash(source: str, source_id: str) -> int:
    """The hash of a sighting's source and that source's id."""
    return _hash(_bytes(source) + b"\0" + _bytes(source_id))


def key_hash(key: str) -> int:
    """The hash of a key."""
    return _hash(_bytes(key))


def stored(time: Millis) -> Millis:
    """A time as the ledger has it: the nearest one with a year of four digits."""
    return min(max(time, EARLIEST), LATEST)


def fill(conn: sqlite3.Connection) -> None:
    """Write the hashes of all sightings, inside the open transaction. The table must be empty."""
    conn.create_function("id_hash", 2, lambda source, ident: _hash(source + b"\0" + ident), deterministic=True)
    conn.create_function("key_hash", 1, _hash, deterministic=True)
    conn.create_function("millis", 1, _millis, deterministic=True)
    # As bytes: text that is no UTF-8 must not stop an upgrade or a repair.
    conn.execute(
        """
        INSERT INTO sighting_hashes (sighting_id, id_hash, key_hash, happened_ms)
        SELECT id, id_hash(CAST(source AS BLOB), CAST(source_id AS BLOB)), key_hash(CAST(key AS BLOB)),
               millis(CAST(happened_at AS BLOB)) FROM sightings NOT INDEXED ORDER BY id
        """
    )


def _hash(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _millis(text: bytes) -> int:
    return times.from_iso(text.decode("utf-8", "replace"))
