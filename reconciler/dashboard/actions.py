"""The actions of the dashboard's buttons: the same as those of the commands."""

from __future__ import annotations

import asyncio

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.texts import one_line
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.replaying import replay_now, ways
from reconciler.forwarding.trial import NotSent, try_out
from reconciler.ledger import beside
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.replay import ReplayRequest
from reconciler.ledger.storage.connection import LOOK_S, opened
from reconciler.ledger.views.browse import Filter

LONGEST_REASON = 200


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


def change_destination(config: Config, name: str, act: str, why: str = "") -> str:
    """Pause or resume a destination, or send it a test event. Returns a text that says what was done."""
    if act == "test":
        return send_test_event(config, name)
    with opened(config.ledger.location) as db:
        db.give_up_after(LOOK_S)
        one = next((one for one in destinations.destination_states(db) if one.name == name), None)
        if one is None or act not in ("pause", "resume"):
            return "There is no such destination."
        if act == "pause":
            beside.pause(db, one.id, reason(why), now=times.now())
            return f"{name} is paused. New events are kept for it."
        beside.resume(db, one.id)
        return f"{name} is resumed."


def reason(typed: str) -> str:
    """What a person gives as a reason, in one line. A text that the service itself uses means what it means there."""
    text = one_line(" ".join(typed.split()))[:LONGEST_REASON].strip()
    return text if text and text != destinations.GONE else beside.BY_HAND


def send_test_event(config: Config, name: str) -> str:
    """Send a test event to a destination of the config. Returns a text with its answer."""
    found = next((one for one in config.destinations if one.name == name), None)
    if found is None:
        return "There is no such destination in the config."
    try:
        answer = asyncio.run(try_out(found, gitlab_url=config.gitlab.url)).answer
    except (NotSent, TransformFailed) as error:
        return f"The test event was not sent: {error}"
    said = " ".join(part for part in (answer.error, answer.response and f"Its answer: {answer.response}") if part)
    if answer.accepted:
        status = "" if answer.status is None else f" (HTTP {answer.status})"
        return f"{name} accepted the test event{status}."
    return f"{name} did not accept the test event: {said}"


def _replay(config: Config, wanted: ReplayRequest, destination: str | None) -> int:
    with opened(config.ledger.location) as db:
        db.give_up_after(LOOK_S)
        return replay_now(db, wanted, ways(db, config, destination).values())
