"""Opens an intake for the receiver. One that is damaged is kept under another name, and another one is begun."""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import structlog

from reconciler.ledger.intake.copying import copy_damaged
from reconciler.ledger.intake.exchange import alone, exchange, remove
from reconciler.ledger.intake.file import PATIENCE_S, IntakeFile, is_unusable, open_file, opening
from reconciler.ledger.storage.files import identity, sync

_CHECKED = 1000
"""So many of the oldest webhooks are read when the receiver opens the file: where trimming stops, there is damage."""
_OLDEST = "SELECT count(*) FROM (SELECT 1 FROM webhooks ORDER BY position LIMIT ?)"

log = structlog.get_logger(__name__)


def open_or_replace(path: Path, damage: sqlite3.Error | None) -> IntakeFile:
    """Open an intake for the receiver. `damage` is what was met in it before.

    A damaged one is kept under another name and replaced, so that webhooks can be acknowledged again; what can still
    be read of it is copied. Raises IntakeUnavailable, with what to do.
    """

    def open_it() -> IntakeFile:
        if damage is not None:
            return _replace(path, damage)
        file: IntakeFile | None = None
        try:
            file = open_file(path, anew=True)
            file.conn.execute(_OLDEST, (_CHECKED,)).fetchone()
        except sqlite3.DatabaseError as error:
            if file is not None:
                file.close()
            if not is_unusable(error):
                raise
            return _replace(path, error)
        return file

    return opening(path, open_it)


def _replace(path: Path, error: sqlite3.Error) -> IntakeFile:
    """Put a damaged intake aside and begin another one, with what can be read of the damaged one.

    The new file is complete and on disk before the damaged one is moved. Nothing is appended to that one meanwhile,
    and if another receiver replaces it first, that is the file which is opened.
    """
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}")
    made = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    damaged = identity(path)
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)) as old:
            _keep_from_appending(old)
            copied, lost = copy_damaged(old, made)
            sync(made)
            with alone(path):
                if identity(path) == damaged:
                    log.error(
                        "intake damaged: another one is begun, the damaged file is kept",
                        reason=str(error), at=str(aside), copied=copied, lost=lost,
                    )  # fmt: skip
                    exchange(path, made, aside)
    finally:
        remove(made)
    return open_file(path)


def _keep_from_appending(damaged: sqlite3.Connection) -> None:
    """Take the write lock, if the damage allows that: then nobody can append either. Raises sqlite3.Error."""
    try:
        damaged.execute("BEGIN IMMEDIATE")
    except sqlite3.DatabaseError as error:
        if not is_unusable(error):
            raise
