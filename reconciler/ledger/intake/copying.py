"""Copies webhooks from one intake to another: for a backup, or what can be read of a damaged one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import structlog

from reconciler.events import times
from reconciler.ledger.intake.file import OPENED, IntakeFile, open_file, open_intake
from reconciler.ledger.intake.intake import Opening
from reconciler.ledger.intake.intake import lost as lost_webhook
from reconciler.ledger.intake.rows import INSERT, as_row, last_position, openings, read_after

_COPY = "INSERT INTO webhooks (position, received_at, hook, headers, body) VALUES (?, ?, ?, ?, ?)"
_COPIED_AT_ONCE = 500

log = structlog.get_logger(__name__)


def copy_after(file: IntakeFile, after: int, made: Path) -> None:
    """Copy the webhooks after a position to a new intake with the same id. Raises sqlite3.Error, IntakeUnavailable.

    Each read is short, so that no log has to grow for it.
    """
    last = last_position(file.conn)
    with closing(open_intake(made)) as new:
        new.conn.execute("PRAGMA synchronous = OFF")  # a crash removes this copy's purpose too
        new.conn.execute("BEGIN IMMEDIATE")
        new.conn.execute("UPDATE intake SET id = ?", (file.id,))
        _add_openings(new.conn, openings(file.conn))
        while after < last and (some := read_after(file.conn, after=after, limit=_COPIED_AT_ONCE)):
            new.conn.executemany(_COPY, [(one.position, *as_row(one.webhook)) for one in some])
            after = some[-1].position
        new.conn.execute("COMMIT")


def _add_openings(conn: sqlite3.Connection, some: Sequence[Opening]) -> None:
    conn.executemany(OPENED, [(one.id, one.after) for one in some])


def copy_damaged(old: sqlite3.Connection, made: Path) -> tuple[int, int]:
    """Copy what can be read of a damaged intake to a new one. Returns how many webhooks were read, and how many not,
    at least.

    If its id and its last position can be read, the copy is the same intake: what was recorded of it is not recorded
    again.
    """
    copied = lost = after = 0
    broke_off = False
    with closing(open_file(made)) as new:
        new.conn.execute("BEGIN IMMEDIATE")
        before = _identity(old)
        try:
            while some := read_after(old, after=after, limit=_COPIED_AT_ONCE):
                rows = [as_row(one.webhook) for one in some]
                if before is None:
                    new.conn.executemany(INSERT, [row for row in rows if row[-1]])
                else:
                    new.conn.executemany(_COPY, [(one.position, *row) for one, row in zip(some, rows, strict=True)])
                after = some[-1].position
                lost += sum(one.webhook.is_lost for one in some)
                copied += len(some)
        except sqlite3.Error as error:
            log.warning("damaged intake not read to its end", read=copied, reason=str(error))
            broke_off = True
        if before is not None:
            intake_id, last, opened = before
            new.conn.execute("UPDATE intake SET id = ?", (intake_id,))
            _add_openings(new.conn, opened)
            new.conn.execute("DELETE FROM sqlite_sequence WHERE name = 'webhooks'")
            new.conn.execute("INSERT INTO sqlite_sequence VALUES ('webhooks', ?)", (max(last, after),))
        if broke_off:  # nobody knows how many: the recorder keeps this one, so that all faces show it
            new.conn.execute(INSERT, as_row(lost_webhook(times.now())))
        new.conn.execute("COMMIT")
    return copied - lost, lost + broke_off


def _identity(damaged: sqlite3.Connection) -> tuple[str, int, list[Opening]] | None:
    """The id, the last position and the openings of a damaged intake; None if they can't be read."""
    try:
        [(intake_id,)] = damaged.execute("SELECT id FROM intake").fetchall()
        return str(intake_id), last_position(damaged), openings(damaged)
    except (sqlite3.Error, ValueError):
        return None
