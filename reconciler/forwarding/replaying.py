"""Replaying events to the destinations of the config: for commands, the dashboard and the API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.forwarding.filters import routes
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.queue import destinations, replay
from reconciler.ledger.queue.replay import EVENTS_A_STEP, ReplayRequest
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage.database import Database


def ways(db: Database, config: Config, destination: str | None) -> dict[str, Route]:
    """The routes to the active destinations by name, or only to one of them."""
    ids = destinations.active(db)
    chosen = [one for one in config.destinations if one.name in ids and destination in (None, one.name)]
    return dict(zip([one.name for one in chosen], routes(chosen, ids), strict=True))


def counts(db: Database, wanted: ReplayRequest, to: Mapping[str, Route]) -> dict[str, int]:
    """How many deliveries a request means, by destination. Nothing is changed."""
    return {name: sum(1 for _ in replay.find(db, wanted, route)) for name, route in to.items()}


class ReplayInterrupted(Exception):
    """Some deliveries were queued before the ledger could not be changed any more. The message says how many."""


def replay_now(db: Database, wanted: ReplayRequest, to: Iterable[Route]) -> int:
    """Queue them all again, in short transactions. Returns how many.

    Raises LedgerError if none were queued, ReplayInterrupted if only some were.
    """
    done = 0
    try:
        for queued in _steps(db, wanted, to):
            done += queued
    except LedgerError as error:
        if not done:
            raise
        raise ReplayInterrupted(f"{done:,} deliveries were queued, the others were not: {error}") from error
    return done


def _steps(db: Database, wanted: ReplayRequest, to: Iterable[Route]) -> Iterator[int]:
    for route in to:
        found = replay.find(db, wanted, route)
        while some := list(islice(found, EVENTS_A_STEP)):
            replay.queue_replays(db, route.destination_id, some, now=times.now())
            yield len(some)
