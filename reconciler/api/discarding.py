"""Dead letters that are marked as handled: the same as `dead-letters discard`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from reconciler.api.models import Answer
from reconciler.api.once import IdempotencyKey, carried_out
from reconciler.api.problems import Problem
from reconciler.api.queries import Chosen, Word
from reconciler.api.service import Service, ServiceDep, event_number
from reconciler.api.writing import MOST_EVENTS, SENT_BEFORE, EventId
from reconciler.events import times
from reconciler.ledger import beside
from reconciler.ledger.queue import replay
from reconciler.ledger.queue.destinations import destination_states
from reconciler.ledger.queue.discarding import dead_letters
from reconciler.ledger.queue.replay import ReplayRequest, of_now

router = APIRouter()


class Discard(Chosen):
    """Which dead letters to discard: those of `events`, those that match a filter, or all."""

    events: list[EventId] = Field(
        default_factory=list, max_length=MOST_EVENTS, description="Those of these events: numbers or IDs, as text."
    )
    destination: Word = Field(None, description="Only those of this destination, which may have left the config.")
    all: bool = Field(False, description="Needed to discard all, without a filter.")
    dry_run: bool = Field(False, description="Only count.")


class Discarded(Answer):
    """How many dead letters are meant, by destination, and how many were discarded."""

    destinations: dict[str, int]
    discarded: int


@router.post("/dead-letters/discard", response_model=Discarded, responses=SENT_BEFORE, tags=["dead letters"])
def discard_dead_letters(service: ServiceDep, body: Discard, idempotency_key: IdempotencyKey = None) -> Response:
    """Mark dead letters as handled, without delivering them: as `dead-letters discard`. They are no dead letters any
    more. Their events stay, and can be replayed. Sent again after an error, it goes on with those that are left.

    With `dry_run`, only counts.
    """
    filters = (body.events, body.destination, body.project, body.kind, body.since, body.until)
    if not (body.all or any(filters)):
        raise Problem(422, "say which dead letters: give `events`, a filter, or `all`")
    if body.events and (body.project or body.kind or body.since or body.until):
        raise Problem(422, "events: can't be combined with `project`, `kind`, `from` or `to`")
    request = ["discard", body.model_dump(mode="json")]
    return carried_out(service, idempotency_key, request, lambda: _discard(service, body))


def _discard(service: Service, body: Discard) -> Any:
    wanted = body.filter()
    with service.writing() as db:
        ids = tuple(event_number(db, one) for one in body.events)
        if wrong := replay.unknown(db, ids):
            raise Problem(422, f"not in this ledger: {', '.join(map(str, wrong))}; nothing was discarded")
        states = destination_states(db)
        if body.destination is not None and body.destination not in [one.name for one in states]:
            raise Problem(422, f"the ledger knows no destination {body.destination!r}; nothing was discarded")
        request = of_now(db, ReplayRequest(wanted, ids, dead_letters_only=True))
        chosen = {one.name: one.id for one in states if body.destination in (None, one.name)}
        found = {
            name: [event_id for step in dead_letters(db, request, ident) for event_id in step]
            for name, ident in chosen.items()
        }
        done = 0
        if not body.dry_run:
            now = times.now()
            done = sum(beside.discard_dead_letters(db, chosen[name], ids, now=now) for name, ids in found.items())
    return {"destinations": {name: len(ids) for name, ids in found.items()}, "discarded": done}
