"""Requests that are carried out once, however often they are sent: by a key that the client has chosen.

They are kept for a day, in the ledger, so that a client may send its request again after the service was restarted.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from reconciler.events.times import DAY, Millis
from reconciler.ledger.storage import meta
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database

KEPT_FOR = DAY
_PREFIX = "request:"


class Kept(msgspec.Struct, frozen=True):
    """A request that was sent before: a hash of it, when, and the answer; None if it was not completed."""

    request: str
    at: int
    answer: str | None = None


_KEPT = msgspec.json.Decoder(Kept)


def begin(db: Database, key: str, request: str, *, now: Millis) -> Kept | None:
    """Note that a request is being carried out. Returns the one that was sent before with this key, if there was one;
    then nothing is noted. Raises LedgerUnavailable.
    """
    name = _name(key)
    with transaction(db):
        kept = {one: _read(value) for one, value in meta.with_prefix(db, _PREFIX).items()}
        meta.delete(db, *(_PREFIX + one for one, old in kept.items() if old is None or old.at < now - KEPT_FOR))
        found = kept.get(name.removeprefix(_PREFIX))
        if found is not None and found.at >= now - KEPT_FOR:
            return found
        _put(db, name, Kept(request, now))
        return None


def complete(db: Database, key: str, request: str, answer: str, *, now: Millis) -> None:
    """Keep the answer. Raises LedgerUnavailable."""
    with transaction(db):
        _put(db, _name(key), Kept(request, now, answer))


def forget(db: Database, key: str) -> None:
    """The request changed nothing: it may be sent again. Raises LedgerUnavailable."""
    with transaction(db):
        meta.delete(db, _name(key))


def _put(db: Database, name: str, kept: Kept) -> None:
    meta.put(db, name, msgspec.json.encode(kept).decode())


def _read(text: str) -> Kept | None:
    try:
        return _KEPT.decode(text)
    except (msgspec.MsgspecError, ValueError):
        return None


def _name(key: str) -> str:
    """Keys are hashed: they may be long."""
    return _PREFIX + sha256(key.encode("utf-8", "replace")).hexdigest()
