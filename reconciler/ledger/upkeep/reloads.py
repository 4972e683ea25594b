"""How the service's last reading of a changed config ended, for the command that asked for it."""

from __future__ import annotations

import msgspec
from sqlite_utils import Database

_NAME = "reload"


class Reload(msgspec.Struct, frozen=True):
    """`number` grows with each; `error`: why it was refused, None where it was taken."""

    number: int = 0
    error: str | None = None


def last_reload(db: Database) -> Reload:
    """The last one."""
    row = db.conn.execute("SELECT value FROM meta WHERE name = ?", (_NAME,)).fetchone()
    try:
        return Reload() if row is None else msgspec.json.decode(row[0], type=Reload)
    except (msgspec.MsgspecError, ValueError, TypeError):  # a person wrote it
        return Reload()


def note_reload(db: Database, error: str | None) -> None:
    """Another one ended."""
    done = Reload(last_reload(db).number + 1, error)
    db.conn.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_NAME, msgspec.json.encode(done).decode()))
