"""Event ids as destinations see them: stable, and never used for two events.

A ledger that was restored from a backup goes on counting from where the backup was taken, and so reaches numbers that
other events already had. Its later events therefore get ids with another prefix.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

from reconciler.ledger.errors import LedgerDamaged
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql
from reconciler.ledger.storage.sqlite import SqliteDatabase

_NAME, _NAME_FROM = "ledger_id", "ledger_id_from:"
_LAST = Sql(
    "SELECT seq FROM sqlite_sequence WHERE name = 'events'", postgresql="SELECT last_value FROM event_numbers"
)


_GIVEN = re.compile(r"(?:evt_[0-9a-z]+_)?([0-9]{1,19})", re.ASCII)
LARGEST = (1 << 63) - 1
"""The largest integer of SQLite."""


class EventId(msgspec.Struct, frozen=True):
    """An event ID as given. `number` is the event's only if the ID was made by this ledger."""

    named: str
    number: int


def read_event_id(text: str) -> EventId | None:
    """An event's number, or its id as destinations receive it; None if the text is neither."""
    found = _GIVEN.fullmatch(text)
    return EventId(text, int(found[1])) if found is not None and 0 < int(found[1]) <= LARGEST else None


def of_other_ledgers(db: Database, ids: Sequence[EventId]) -> list[str]:
    """Those of the ids that another ledger has made."""
    id_of = event_ids(db)
    return [one.named for one in ids if not one.named.isdigit() and id_of(one.number) != one.named]


def event_ids(db: Database) -> Callable[[int], str]:
    """A function that turns an event's number in the ledger into its id, like `evt_3f9a0c21d4be_17`.

    Raises LedgerDamaged if the ledger has no id of its own: other ids for its events would be taken for other events.
    """
    first = meta.get(db, _NAME)
    if first is None:
        raise LedgerDamaged("the ledger has lost its id (`ledger_id` in the table `meta`): `restore` brings it back")
    names = [(0, first)]
    starts_of = meta.with_prefix(db, _NAME_FROM)
    names += sorted((int(start), value) for start, value in starts_of.items() if start.isdecimal())
    starts = [start for start, _ in names]
    return lambda event_id: f"evt_{names[bisect_right(starts, event_id) - 1][1]}_{event_id}"


def rename_from_here(db: Database) -> None:
    """Give future events ids with a new prefix. Existing events keep theirs."""
    meta.put(db, f"{_NAME_FROM}{next_number(db)}", secrets.token_hex(6))


def next_number(db: Database) -> int:
    """The next event's number. Numbers only grow, and those of pruned events are not used again."""
    row = db.execute(_LAST).fetchone()
    return (row[0] if row else 0) + 1


def go_on_with(db: Database, number: int) -> None:
    """Make this the next event's number, inside the open transaction."""
    if not isinstance(db, SqliteDatabase):
        db.execute("SELECT setval('event_numbers', ?)", (number - 1,))
        return
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (number - 1,))
