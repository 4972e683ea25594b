"""What was acknowledged and is not recorded yet."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import msgspec

from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake import postgresql_rows
from reconciler.ledger.intake.file import explain, intake_path, look_into
from reconciler.ledger.intake.reader import first_received
from reconciler.ledger.intake.rows import last_position, openings
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.place import known_progress
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sqlite import SqliteDatabase


class Backlog(msgspec.Struct, frozen=True):
    """How many webhooks wait in the intake, and when the first of them came. `error` says why that is not known."""

    waiting: int = 0
    oldest_at: str | None = None
    error: str | None = None


def backlog(db: Database) -> Backlog:
    """The webhooks that wait to be recorded in this ledger: in its intake, or in itself if it is a restored copy."""
    copied, since = unrecorded.waiting(db)
    if not isinstance(db, SqliteDatabase):
        return _in_database(db, copied, since)
    if db.files is None:
        return Backlog(copied, since)
    path = intake_path(db.files.path)
    try:
        file = look_into(path)
        if file is None:
            return Backlog(copied, since)
        with closing(file):
            known = known_progress(db, file.id, openings(file.conn))
            oldest_at = first_received(file, known.place.position)
            # None: what comes after the place was recorded and removed before this ledger was put back.
            count = 0 if oldest_at is None else known.waiting(last_position(file.conn))
            return Backlog(copied + count, min(filter(None, (since, oldest_at)), default=None))
    except IntakeUnavailable as error:
        return Backlog(error=str(error))
    except sqlite3.Error as error:
        return Backlog(error=f"{path}: {explain(error)}")


def _in_database(db: Database, copied: int, since: str | None) -> Backlog:
    known = known_progress(db, postgresql_rows.intake_id(db), [])
    oldest_at = postgresql_rows.first_received(db, known.place.position)
    count = 0 if oldest_at is None else postgresql_rows.waiting(db, known)
    return Backlog(copied + count, min(filter(None, (since, oldest_at)), default=None))
