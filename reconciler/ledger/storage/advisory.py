"""PostgreSQL's advisory locks that a ledger uses. Each is a pair: what it is for, and the ledger's schema.

The server frees them when the connection ends, however that comes.
"""

from __future__ import annotations

WRITER = 1735160321
"""Of a transaction that writes. SQLite has one writer at a time, and the ledger's changes rely on that."""
INTAKE = 1735160322
"""Of a statement that appends to the intake: positions are committed in their order."""
SERVICE = 1735160323
"""Of the connection with which a service's worker writes."""
COPIES = 1735160324
"""Of the connections with which the copies of a service write, which share it. `ledger copy` has it alone."""

LEDGER = "hashtext(current_schema())"
"""The second half of each pair."""

DESTINATIONS = "hashtext('destinations of ' || current_schema())"
"""The first half of the pairs of destinations, whose ids are the second. The connection with which a copy writes has
those of the destinations that the copy delivers to.
"""


def as_oid(key: str) -> str:
    """A half of a pair, as `pg_locks` shows it."""
    return f"(({key})::bigint & 4294967295)::oid"


GRANTED = """
    locktype = 'advisory' AND granted AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""The rows of `pg_locks` that are advisory locks of this database, of pairs."""

HELD = f"""
    SELECT 1 FROM pg_locks WHERE {GRANTED} AND classid = ? AND objid = {as_oid(LEDGER)}
"""
"""Whether anybody holds one, for a lock of one's choice."""
