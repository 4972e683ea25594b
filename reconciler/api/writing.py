"""What can be changed: replays, and destinations. The same operations as those of commands and dashboard."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Response
from pydantic import Field, StringConstraints

from reconciler.api import models
from reconciler.api.once import IdempotencyKey, carried_out
from reconciler.api.problems import Problem
from reconciler.api.queries import Chosen, Word
from reconciler.api.service import Responses, Service, ServiceDep, event_number
from reconciler.events import times
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.listing import destination_rows
from reconciler.forwarding.replaying import counts, replay_now, ways
from reconciler.forwarding.trial import NotSent, try_out
from reconciler.ledger import beside
from reconciler.ledger.queue import replay
from reconciler.ledger.queue.destinations import destination_states
from reconciler.ledger.queue.replay import ReplayRequest
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import status

MOST_EVENTS = 1000

EventId = Annotated[str, StringConstraints(min_length=1, max_length=80)]

router = APIRouter()
NO_DESTINATION: Responses = {404: {"description": "There is no such destination."}}
SENT_BEFORE: Responses = {409: {"description": "A request with this `Idempotency-Key` was not completed."}}


class Replay(Chosen):
    """Which deliveries to queue again: those of `events`, or of a time, or dead letters."""

    events: list[EventId] = Field(
        default_factory=list, max_length=MOST_EVENTS, description="These events: numbers or IDs, as text."
    )
    destination: Word = Field(None, description="Only to this destination.")
    dead_letters: bool = Field(False, description="Only dead letters.")
    dry_run: bool = Field(False, description="Only count.")


@router.post("/replays", response_model=models.Replayed, responses=SENT_BEFORE, tags=["replays"])
def replay_events(service: ServiceDep, body: Replay, idempotency_key: IdempotencyKey = None) -> Response:
    """Deliver events again: as `replay`, and with `dead_letters` as `dead-letters replay`.

    With `dry_run`, only counts. An event that a destination's filter excludes is delivered to it only if `events`
    names it.
    """
    if not (body.events or body.since or body.until or body.dead_letters):
        raise Problem(422, "say which events: give `events`, `from` and `to`, or `dead_letters`")
    if body.events and (body.project or body.kind or body.since or body.until):
        raise Problem(422, "events: can't be combined with `project`, `kind`, `from` or `to`")
    request = ["replays", body.model_dump(mode="json")]
    return carried_out(service, idempotency_key, request, lambda: _replay(service, body))


@router.post(
    "/destinations/{name}/pause",
    response_model=models.Destination,
    responses=NO_DESTINATION | SENT_BEFORE,
    tags=["destinations"],
)
def pause(service: ServiceDep, name: str, idempotency_key: IdempotencyKey = None) -> Response:
    """Pause a destination until it is resumed, even after a restart. New events are kept for it."""

    def do() -> Any:
        with service.writing() as db:
            beside.pause(db, _ident(db, name), now=times.now())
            return _row(service, db, name)

    return carried_out(service, idempotency_key, ["pause", name], do)


@router.post(
    "/destinations/{name}/resume",
    response_model=models.Destination,
    responses=NO_DESTINATION | SENT_BEFORE,
    tags=["destinations"],
)
def resume(service: ServiceDep, name: str, idempotency_key: IdempotencyKey = None) -> Response:
    """Resume a paused destination, starting with its pending events."""

    def do() -> Any:
        with service.writing() as db:
            beside.resume(db, _ident(db, name))
            return _row(service, db, name)

    return carried_out(service, idempotency_key, ["resume", name], do)


@router.post(
    "/destinations/{name}/test",
    response_model=models.Trial,
    responses=NO_DESTINATION | SENT_BEFORE,
    tags=["destinations"],
)
def send_test_event(service: ServiceDep, name: str, idempotency_key: IdempotencyKey = None) -> Response:
    """Send one test event once, regardless of filter, rate limit and state: as `destinations test --send`. It is
    marked as such, and not recorded. Whether it was accepted is in the answer.
    """

    def do() -> Any:
        config = service.current()
        found = next((one for one in config.destinations if one.name == name), None)
        if found is None:
            raise Problem(404, f"no destination named {name!r} in the config")
        try:
            return asyncio.run(try_out(found, gitlab_url=config.gitlab.url)).plain()
        except (NotSent, TransformFailed) as error:
            raise Problem(422, str(error)) from None

    return carried_out(service, idempotency_key, ["test", name], do)


def _replay(service: Service, body: Replay) -> Any:
    config = service.current()
    if body.destination is not None and body.destination not in [one.name for one in config.destinations]:
        raise Problem(422, f"no destination named {body.destination!r} in the config")
    chosen = ReplayRequest(filter=body.filter(), dead_letters_only=body.dead_letters)
    with service.writing() as db:
        ids = tuple(event_number(db, one) for one in body.events)
        if wrong := replay.unknown(db, ids):
            raise Problem(422, f"not in this ledger: {', '.join(map(str, wrong))}; nothing was replayed")
        wanted = replay.of_now(db, msgspec.structs.replace(chosen, event_ids=ids))
        to = ways(db, config, body.destination)
        found = counts(db, wanted, to)
        done = 0 if body.dry_run else replay_now(db, wanted, to.values())
    return {"destinations": found, "replayed": done}


def _ident(db: Database, name: str) -> int:
    found = next((one.id for one in destination_states(db) if one.name == name), None)
    if found is None:
        raise Problem(404, f"the ledger knows no destination {name!r}")
    return found


def _row(service: Service, db: Database, name: str) -> dict[str, Any]:
    rows = destination_rows(service.current(), status.destination_statuses(db))
    return next(row for row in rows if row["name"] == name)
