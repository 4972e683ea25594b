"""Replaying events: which deliveries a request means, and how they are queued again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.sighting import OWN_KINDS
from reconciler.events.times import Millis
from reconciler.ledger.queue.opening import candidates_of
from reconciler.ledger.queue.routes import Candidate, Route, Undecided, lane
from reconciler.ledger.storage.connection import transaction
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.sql import Sql, filled_in, look_up
from reconciler.ledger.views.browse import NO_INDEX, Filter, last_id

EVENTS_A_STEP = 500
"""Short transactions: the service writes between them."""

_REPLAY = """
    INSERT INTO deliveries (event_id, destination_id, state, lane, opened_at, next_attempt_at, replays)
    VALUES (?1, ?2, 'pending', ?3, ?4, ?4, 1)
    ON CONFLICT (event_id, destination_id) DO UPDATE SET
        state = 'pending', lane = excluded.lane, attempts_before = deliveries.attempts,
        replays = deliveries.replays
                  + CASE WHEN deliveries.state IN ('delivered', 'dead', 'discarded') THEN 1 ELSE 0 END,
        opened_at = excluded.opened_at, next_attempt_at = excluded.next_attempt_at, first_attempt_at = NULL,
        finished_at = NULL
"""

_ASKED = Sql(
    "(SELECT value AS id FROM json_each(?)) AS asked",
    postgresql="(SELECT value::bigint AS id FROM jsonb_array_elements_text(?::jsonb)) AS asked",
)
_DELIVERY = look_up("deliveries", "d", "d.event_id = e.id AND d.destination_id = ?", left=True)
_UNKNOWN = filled_in(
    """
    SELECT asked.id, e.merged_into FROM {asked} LEFT JOIN events e ON e.id = asked.id
     WHERE e.id IS NULL OR e.merged_into IS NOT NULL ORDER BY asked.id
    """,
    asked=_ASKED,
)


class ReplayRequest(msgspec.Struct, frozen=True):
    """Which events to replay: by id, or by a filter.

    `dead_letters_only`: only those that are dead letters. `through`: none with a larger id; None: none that are
    recorded after `find` begins.
    """

    filter: Filter = Filter()
    event_ids: tuple[int, ...] = ()
    dead_letters_only: bool = False
    through: int | None = None


def of_now(db: Database, request: ReplayRequest) -> ReplayRequest:
    """The request without events that are recorded from now on: they are delivered anyway, and would keep a long
    replay from ending.
    """
    if request.through is not None:
        return request
    return msgspec.structs.replace(request, through=last_id(db))


def unknown(db: Database, event_ids: Sequence[int]) -> dict[int, int | None]:
    """Those of the ids that belong to no event, each with the event that it was merged into, if it was."""
    return dict(db.execute(_UNKNOWN, [orjson.dumps(sorted(set(event_ids))).decode()]).fetchall())


class Replay(msgspec.Struct, frozen=True):
    """A delivery to be replayed, and its lane."""

    event_id: int
    lane: str


def find(db: Database, request: ReplayRequest, route: Route) -> Iterator[Replay]:
    """The deliveries that a request means for one destination, oldest event first.

    An event that the destination never had a delivery of is included only if the request names its id, or if the
    destination's filter accepts it now.
    """
    request = of_now(db, request)
    for step in steps(db, request, route.destination_id):
        event_of = {sighting_id: (event_id, had) for event_id, sighting_id, had in step}
        for sighting_id, candidate in candidates_of(db, list(event_of)):
            event_id, had = event_of[sighting_id]
            named = bool(request.event_ids) and candidate.summary.kind not in OWN_KINDS
            if had or named or _accepts(route, candidate):
                yield Replay(event_id, lane(route.ordering, event_id, candidate.summary))


def _accepts(route: Route, candidate: Candidate) -> bool:
    try:
        return route.accepts(candidate)
    except Undecided:
        return False


def queue_replays(db: Database, destination_id: int, some: Sequence[Replay], *, now: Millis) -> None:
    """Queue deliveries again, marked as replays, in one transaction. Keep `some` short (EVENTS_A_STEP).

    Safe while a service is running. Raises LedgerUnavailable if the ledger can't be written.
    """
    with transaction(db):
        db.executemany(_REPLAY, [(one.event_id, destination_id, one.lane, times.iso(now)) for one in some])


_Rows = list[tuple[int, int, bool]]
"""(event, its sighting, whether it has a delivery)"""


def steps(db: Database, request: ReplayRequest, destination_id: int) -> Iterator[_Rows]:
    """The events that a request means, in steps, in the order in which they happened or were recorded."""
    if request.event_ids:
        return _named(db, request, destination_id)
    if request.dead_letters_only:
        return _dead_letters(db, request, destination_id)
    return _of_time(db, request, destination_id)


def _named(db: Database, request: ReplayRequest, destination_id: int) -> Iterator[_Rows]:
    where, values = request.filter.where()
    sql = filled_in(
        """
        SELECT e.id, e.sighting_id, d.event_id IS NOT NULL
          FROM {asked} {event} {delivery}
         WHERE e.merged_into IS NULL{where}{dead} ORDER BY asked.id
        """,
        asked=_ASKED,
        event=look_up("events", "e", "e.id = asked.id"),
        delivery=_DELIVERY,
        where=where,
        dead=" AND d.state = 'dead'" if request.dead_letters_only else "",
    )
    ids = sorted(set(request.event_ids))
    for start in range(0, len(ids), EVENTS_A_STEP):
        asked = orjson.dumps(ids[start : start + EVENTS_A_STEP]).decode()
        yield db.execute(sql, [asked, destination_id, *values]).fetchall()


def _dead_letters(db: Database, request: ReplayRequest, destination_id: int) -> Iterator[_Rows]:
    where, values = request.filter.where()
    sql = filled_in(
        """
        SELECT e.id, e.sighting_id, 1
          FROM deliveries d {event}
         WHERE d.destination_id = ? AND d.state = 'dead' AND d.event_id > ? AND d.event_id <= ?
               AND e.merged_into IS NULL{where}
         ORDER BY d.event_id LIMIT ?
        """,
        event=look_up("events", "e", "e.id = d.event_id"),
        where=where,
    )
    last = 0
    while rows := db.execute(sql, [destination_id, last, request.through, *values, EVENTS_A_STEP]).fetchall():
        yield rows
        last = rows[-1][0]


def _of_time(db: Database, request: ReplayRequest, destination_id: int) -> Iterator[_Rows]:
    where, values = msgspec.structs.replace(request.filter, since=None).where(by_time=True)
    sql = filled_in(
        """
        SELECT e.id, e.sighting_id, d.event_id IS NOT NULL, e.happened_at
          FROM events e {delivery}
         WHERE e.happened_at >= ? AND (e.happened_at > ? OR e.id > ?) AND {plus}e.id <= ?
               AND e.merged_into IS NULL{where}
         ORDER BY e.happened_at, e.id LIMIT ?
        """,
        delivery=_DELIVERY,
        plus=NO_INDEX,
        where=where,
    )
    at, last = "" if request.filter.since is None else times.iso(request.filter.since), 0
    while rows := db.execute(sql, [destination_id, at, at, last, request.through, *values, EVENTS_A_STEP]).fetchall():
        yield [(event_id, sighting_id, had) for event_id, sighting_id, had, _ in rows]
        last, _, _, at = rows[-1]
