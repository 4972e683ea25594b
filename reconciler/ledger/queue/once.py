"""Requests that are carried out once, however often they are sent: by a key that the client has chosen.

They are kept for a day, in the ledger, so that a client may send its request again after the service was restarted.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from reconciler.events import times
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
    earliest = Millis(now - KEPT_FOR)
    with transaction(db):
        meta.delete_before(db, _PREFIX, _name("", earliest))
        for day in {_name(key, earliest), _name(key, now)}:
            text = meta.get(db, day)
            found = None if text is None else _read(text)
            if found is not None and found.at >= earliest:
                return found
        _put(db, key, Kept(request, now))
        return None


def complete(db: Database, key: str, request: str, answer: str, *, begun: Millis) -> None:
    """Keep the answer to a request that has begun at this time. Raises LedgerUnavailable."""
    with transaction(db):
        _put(db, key, Kept(request, begun, answer))


def forget(db: Database, key: str, *, begun: Millis) -> None:
    """The request changed nothing: it may be sent again. Raises LedgerUnavailable."""
    with transaction(db):
        meta.delete(db, _name(key, begun))


def _put(db: Database, key: str, kept: Kept) -> None:
    meta.put(db, _name(key, Millis(kept.at)), msgspec.json.encode(kept).decode())


def _read(text: str) -> Kept | None:
    try:
        return _KEPT.decode(text)
    except (msgspec.MsgspecError, ValueError):
        return None


def _name(key: str, at: Millis) -> str:
    """Of a key that was first sent at this time: the day, by which old ones are removed, and a hash, as keys may be
    long. Without a key, what the names of that day begin with.
    """
    day = f"{_PREFIX}{times.iso(at)[:10]}:"
    return day + sha256(key.encode("utf-8", "replace")).hexdigest() if key else day
