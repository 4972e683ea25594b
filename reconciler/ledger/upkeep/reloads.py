"""The result of the service's last config reload, for the command that asked for it."""

from __future__ import annotations

import msgspec

from reconciler.ledger.storage import meta
from reconciler.ledger.storage.database import Database

_NAME = "reload"


class Reload(msgspec.Struct, frozen=True):
    """`number` grows with each reload. `error` says why the config was rejected; None if it was accepted."""

    number: int = 0
    error: str | None = None


_RELOAD = msgspec.json.Decoder(Reload)


def last_reload(db: Database) -> Reload:
    """The last reload."""
    value = meta.get(db, _NAME)
    try:
        return Reload() if value is None else _RELOAD.decode(value)
    except (msgspec.MsgspecError, ValueError, TypeError):  # edited by hand
        return Reload()


def note_reload(db: Database, error: str | None) -> None:
    """A reload has ended."""
    done = Reload(last_reload(db).number + 1, error)
    meta.put(db, _NAME, msgspec.json.encode(done).decode())
