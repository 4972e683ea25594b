"""The actions of the dashboard's buttons: the same as those of the commands."""

from __future__ import annotations

from itertools import islice

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.forwarding.filters import routes
from reconciler.ledger import beside
from reconciler.ledger.queue import destinations, replay
from reconciler.ledger.queue.replay import EVENTS_A_STEP, ReplayRequest
from reconciler.ledger.storage.connection import LOOK_S, opened
from reconciler.ledger.views.browse import Filter


def replay_event(config: Config, event_id: int, destination: str) -> str:
    """Replay one event to one destination. Returns a text that says what was done."""
    count = _replay(config, ReplayRequest(event_ids=(event_id,)), destination)
    return f"Event {event_id} is replayed to {destination}." if count else "There is nothing to replay."


def replay_dead_letters(config: Config, destination: str | None, kind: str | None) -> str:
    """Replay all dead letters that match a filter. Returns a text that says what was done."""
    count = _replay(config, ReplayRequest(filter=Filter(kind=kind), dead_letters_only=True), destination)
    if not count:
        return "There is nothing to replay."
    return f"{count:,} dead letter{'s' if count != 1 else ''} replayed."


def change_destination(config: Config, name: str, act: str) -> str:
    """Pause or resume a destination. Returns a text that says what was done."""
    with opened(config.ledger.location) as db:
        db.give_up_after(LOOK_S)
        one = next((one for one in destinations.destination_states(db) if one.name == name), None)
        if one is None or act not in ("pause", "resume"):
            return "There is no such destination."
        if act == "pause":
            beside.pause(db, one.id, now=times.now())
            return f"{name} is paused. New events are kept for it."
        beside.resume(db, one.id)
        return f"{name} is resumed."


def _replay(config: Config, wanted: ReplayRequest, destination: str | None) -> int:
    done = 0
    with opened(config.ledger.location) as db:
        db.give_up_after(LOOK_S)
        ids = {one.name: one.id for one in destinations.destination_states(db) if one.active}
        chosen = [one for one in config.destinations if destination in (None, one.name)]
        for route in routes(chosen, ids):
            found = replay.find(db, wanted, route)
            while some := list(islice(found, EVENTS_A_STEP)):
                replay.queue_replays(db, route.destination_id, some, now=times.now())
                done += len(some)
    return done
