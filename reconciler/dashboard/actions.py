"""What the dashboard's buttons do: the same as the commands, in the same words."""

from __future__ import annotations

from itertools import islice

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.forwarding.filters import routes
from reconciler.ledger.queue import destinations, resend
from reconciler.ledger.queue.resend import EVENTS_A_STEP, Wanted
from reconciler.ledger.storage.connection import opened, transaction
from reconciler.ledger.views.browse import Filter


def replay_event(config: Config, event_id: int, destination: str) -> str:
    """Send one event to one destination again. Returns what was done, in words."""
    count = _replay(config, Wanted(event_ids=(event_id,)), destination)
    return f"Event {event_id} goes to {destination} again." if count else "There is nothing to send again."


def replay_dead(config: Config, destination: str | None, kind: str | None) -> str:
    """Send all dead letters of a filter again."""
    count = _replay(config, Wanted(filter=Filter(kind=kind), dead_only=True), destination)
    if not count:
        return "There is nothing to send again."
    return f"{count:,} dead letter{'s' if count != 1 else ''} sent again."


def change_destination(config: Config, name: str, act: str) -> str:
    """Pause a destination, or resume it."""
    with opened(config.ledger.path) as db, transaction(db):
        one = next((one for one in destinations.standings(db) if one.name == name), None)
        if one is None or act not in ("pause", "resume"):
            return "There is no such destination."
        if act == "pause":
            destinations.pause(db, one.id, "by hand", now=times.now())
            return f"{name} is paused. New events are kept for it."
        destinations.resume(db, one.id)
        return f"{name} is resumed."


def _replay(config: Config, wanted: Wanted, destination: str | None) -> int:
    done = 0
    with opened(config.ledger.path) as db:
        ids = {one.name: one.id for one in destinations.standings(db) if one.active}
        chosen = [one for one in config.destinations if destination in (None, one.name)]
        for route in routes(chosen, ids):
            found = resend.find(db, wanted, route)
            while some := list(islice(found, EVENTS_A_STEP)):
                resend.reopen(db, route.destination_id, some, now=times.now())
                done += len(some)
    return done
