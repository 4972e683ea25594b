"""What waits in the intake of a ledger that is copied. Each webhook keeps its position."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.file import IntakeFile, explain, look_into, open_intake
from reconciler.ledger.intake.intake import StoredWebhook
from reconciler.ledger.intake.places import opener
from reconciler.ledger.intake.postgresql_rows import intake_id
from reconciler.ledger.intake.rows import as_row, last_position, openings, read_after
from reconciler.ledger.recording.place import Progress, known_progress, note_progress
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase
from reconciler.ledger.upkeep.copy_tables import NUL, Row
from reconciler.location import Location, PostgresUrl

WEBHOOKS = 500
"""So many are read at once, or fewer if they are large."""

_COLUMNS = "(position, received_at, hook, headers, body) VALUES (?, ?, ?, ?, ?)"
_FILE_ROW = f"INSERT OR IGNORE INTO webhooks {_COLUMNS}"
_TABLE_ROW = f"INSERT INTO intake {_COLUMNS} ON CONFLICT (position) DO NOTHING"


class Waiting(msgspec.Struct, frozen=True):
    """An intake: what of it is in the ledger, its last position, and what reads webhooks after a position."""

    known: Progress
    last: int
    read: Callable[[int], Sequence[StoredWebhook]]

    def rows(self, *, through: int) -> Iterator[list[Row]]:
        """The webhooks that are not in the ledger, a part at a time, up to and with a position."""
        after = self.known.place.position
        while some := self.read(after):
            left = [one for one in some if one.position <= through and not self.known.has(one.position)]
            yield [(one.position, *as_row(one.webhook)) for one in left]
            after = some[-1].position


@contextmanager
def waiting(db: Database, where: Location) -> Iterator[Waiting | None]:
    """The intake of a ledger that is open: `where` is the intake's file, or the database. None if there is none.

    Raises IntakeUnavailable.
    """
    if isinstance(where, PostgresUrl):
        reader = opener(where)()
        try:
            known = known_progress(db, intake_id(db), ())
            yield Waiting(known, reader.last_position(), lambda after: reader.read(after=after, limit=WEBHOOKS))
        finally:
            reader.close()
        return
    file = look_into(where)
    if file is None:
        yield None
        return
    with closing(file), _explained(where):
        known = known_progress(db, file.id, openings(file.conn))
        yield Waiting(known, last_position(file.conn), partial(_read, file))


def _read(file: IntakeFile, after: int) -> Sequence[StoredWebhook]:
    return read_after(file.conn, after=after, limit=WEBHOOKS)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise IntakeUnavailable(f"{path}: {explain(error)}") from error


def copy_waiting(found: Waiting, db: Database, intake: Path | None) -> tuple[Progress, int]:
    """Add what waits to another ledger's intake: a file, or in its database. Returns the place that is to be noted
    there, and how many there were. What was added before is not added twice.
    """
    last = max(found.last, found.known.through)
    if intake is None:
        return _to_table(found, db, last)
    with closing(open_intake(intake)) as file, _explained(intake):
        file.conn.execute("BEGIN IMMEDIATE")  # first: what a receiver appends meanwhile comes after it
        file.conn.execute("DELETE FROM sqlite_sequence WHERE name = 'webhooks'")
        file.conn.execute("INSERT INTO sqlite_sequence VALUES ('webhooks', ?)", (last,))
        file.conn.execute("COMMIT")
        count = 0
        for rows in found.rows(through=found.last):
            file.conn.execute("BEGIN IMMEDIATE")
            file.conn.executemany(_FILE_ROW, rows)
            file.conn.execute("COMMIT")
            count += len(rows)
        return _at(found.known, file.id), count


def _to_table(found: Waiting, db: Database, last: int) -> tuple[Progress, int]:
    if last:
        with transaction(db):  # first: what a receiver appends meanwhile comes after it
            db.execute(
                "SELECT setval('intake_position_seq', greatest(?, (SELECT last_value FROM intake_position_seq)))",
                (last,),
            )
    count = 0
    for rows in found.rows(through=found.last):
        with transaction(db):
            db.executemany(_TABLE_ROW, rows)
        count += len(rows)
    return _at(found.known, intake_id(db)), count


def _at(known: Progress, intake: str) -> Progress:
    return Progress(intake, known.through, known.held)


def note(db: Database, place: Progress) -> None:
    """Note how far the copied intake is recorded, inside the open transaction."""
    note_progress(db, place)


def fits(row: Row, db: Database) -> Row:
    """A webhook's row as a database holds it."""
    if isinstance(db, SqliteDatabase):
        return row
    return tuple(value.replace("\0", NUL) if isinstance(value, str) else value for value in row)
