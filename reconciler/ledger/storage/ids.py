"""The ids that destinations know events by: stable for ever, and never given to two events.

A ledger that was restored from a backup counts on from where the backup was taken, and so reaches numbers that were
given to other events already. From there on it goes by another name.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Callable

from sqlite_utils import Database

_NAME, _NAME_FROM = "ledger_id", "ledger_id_from:"


def event_ids(db: Database) -> Callable[[int], str]:
    """How an event's number in the ledger becomes its id, like `evt_3f9a0c21d4be_17`."""
    names = [(0, _value(db, _NAME))]
    rows = db.conn.execute("SELECT name, value FROM meta WHERE name LIKE ?", (_NAME_FROM + "%",)).fetchall()
    starts_of = {name.removeprefix(_NAME_FROM): value for name, value in rows}
    names += sorted((int(start), value) for start, value in starts_of.items() if start.isdecimal())
    starts = [start for start, _ in names]
    return lambda event_id: f"evt_{names[bisect_right(starts, event_id) - 1][1]}_{event_id}"


def rename_from_here(db: Database) -> None:
    """Events that come from now on get ids under a new name; those that are there keep theirs."""
    row = db.conn.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    start = (row[0] if row else 0) + 1
    db.conn.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"{_NAME_FROM}{start}", secrets.token_hex(6)))


def _value(db: Database, name: str) -> str:
    value: str = db.conn.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]
    return value
