"""Which copy of a service delivers to which destination, with a ledger in PostgreSQL.

A copy holds the advisory lock of each destination that it delivers to, on the connection with which it writes. So
whoever can note the outcome of an attempt still has the destination. What a copy is, and what it can deliver to, is
noted in the table `meta`, under the server's number of its connection.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from reconciler.ledger.storage import advisory, meta, postgresql_schema
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.locking import try_lock
from reconciler.ledger.storage.receivers_table import own_host

_NOTED = "copy "
_LOCKS = f"""
    SELECT pid, CASE classid WHEN {advisory.SERVICE} THEN 'service' WHEN {advisory.COPIES} THEN 'copy' ELSE '' END,
           objid::bigint, pid = pg_backend_pid()
      FROM pg_locks
     WHERE {advisory.GRANTED}
       AND (classid = {advisory.as_oid(advisory.DESTINATIONS)}
            OR classid IN ({advisory.SERVICE}, {advisory.COPIES}) AND objid = {advisory.as_oid(advisory.LEDGER)})
     ORDER BY pid
"""
_TAKE = f"SELECT pg_try_advisory_lock({advisory.DESTINATIONS}, ?)"
_GIVE_BACK = f"SELECT pg_advisory_unlock({advisory.DESTINATIONS}, ?)"


class Sharer(msgspec.Struct, frozen=True):
    """A copy that can deliver: its host and process, and the ids of the destinations that are in its config."""

    host: str
    process: int
    destinations: list[int]


class Shared(msgspec.Struct, frozen=True):
    """Which copies there are, by the server's number of their connections, and which of them has each destination.

    `worker` is the one that is the worker. `own` is the connection that asked, 0 if it is none of a copy's. Unless
    `may_share`, this copy must deliver nothing: the worker is of an earlier version, which delivers to all; or the
    tables are of a later one.
    """

    own: int
    copies: dict[int, Sharer]
    holders: dict[int, int]
    worker: int | None
    may_share: bool


_DECODER = msgspec.json.Decoder(Sharer)


def look(db: Database) -> Shared:
    """Who has what now."""
    copies, holders, worker, own = set(), {}, None, 0
    for connection, what, key, is_own in db.execute(_LOCKS).fetchall():
        if what == "copy":
            copies.add(connection)
            own = connection if is_own else own
        elif what == "service":
            worker = connection
        else:
            holders[key] = connection
    known = {name: _sharer(value) for name, value in meta.with_prefix(db, _NOTED).items()}
    noted = {one: known.get(str(one)) for one in copies}
    later = postgresql_schema.applied(db) - postgresql_schema.MIGRATIONS.keys()
    return Shared(
        own,
        {one: sharer for one, sharer in noted.items() if sharer is not None},
        holders,
        worker,
        may_share=not later and (worker is None or worker in copies),
    )


def note(db: Database, process: int, destinations: Collection[int]) -> Shared:
    """This copy is that process, and can deliver to these. Returns who has what. The caller holds the transaction."""
    found = look(db)
    # One that must deliver nothing is given nothing by the others.
    own = Sharer(own_host(), process, sorted(destinations) if found.may_share else [])
    if found.copies.get(found.own) == own or not found.own:
        return found
    gone = meta.with_prefix(db, _NOTED).keys() - {str(one) for one in found.copies}
    meta.delete(db, *(_NOTED + one for one in gone))
    meta.put(db, f"{_NOTED}{found.own}", msgspec.json.encode(own).decode())
    return msgspec.structs.replace(found, copies=found.copies | {found.own: own})


def take(db: Database, destinations: Collection[int]) -> set[int]:
    """Take those of these destinations that nobody has. Returns those that this copy has then."""
    has = _own(db)  # a lock that is taken twice would have to be given back twice
    return {one for one in destinations if one in has or db.execute(_TAKE, (one,)).fetchone()[0]}


def give_back(db: Database, destinations: Collection[int]) -> None:
    """Give back destinations, so that another copy can take them."""
    for one in _own(db).intersection(destinations):
        db.execute(_GIVE_BACK, (one,))


def become_worker(db: Database) -> bool:
    """Whether this copy is the worker now, because no other one is. Not with tables of a later version."""
    return look(db).may_share and try_lock(db, advisory.SERVICE)


def _own(db: Database) -> set[int]:
    found = look(db)
    return {one for one, holder in found.holders.items() if holder == found.own}


def _sharer(value: str) -> Sharer | None:
    try:
        return _DECODER.decode(value)
    except (msgspec.MsgspecError, ValueError):  # edited by hand
        return None
