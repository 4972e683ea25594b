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

LEDGER = "hashtext(current_schema())"
"""The second half of each pair."""

HELD = f"""
    SELECT 1 FROM pg_locks
     WHERE locktype = 'advisory' AND granted AND objsubid = 2
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND classid = ? AND objid = ({LEDGER}::bigint & 4294967295)::oid
"""
"""Whether anybody holds one, for a lock of one's choice."""
