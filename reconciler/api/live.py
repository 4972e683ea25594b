"""The stream of new events (server-sent events)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from reconciler.api.problems import Problem, as_problem, problem
from reconciler.api.queries import StreamQuery
from reconciler.api.service import Responses, ServiceDep, json_text
from reconciler.api.stream import BEGIN, FULL, Listeners, Look
from reconciler.events import fields
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import EventId, event_ids, next_number, of_other_ledgers
from reconciler.ledger.views import browse
from reconciler.ledger.views.news import News, news

AGAIN_S = 60
HEADERS = {"X-Accel-Buffering": "no"}
"""A proxy must pass each event on when it comes."""

router = APIRouter()
EVENTS: Responses = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@router.get("/events/stream", response_class=Response, responses=EVENTS, tags=["events"])
def stream_events(
    service: ServiceDep,
    query: Annotated[StreamQuery, Query()],
    last_event_id: Annotated[
        str | None,
        Header(max_length=80, description="Go on after this event: a number or an ID. `0` begins with the oldest."),
    ] = None,
) -> Response:
    """New events as they are recorded, as server-sent events: each has its ID, and `data` is the event as in the
    list. Without `Last-Event-ID`, begins with the next event. The stream ends when the service stops; go on with the
    ID of the last event.
    """
    stream = service.stream
    if stream.is_full:
        return problem(503, "too many streams are open", headers={"Retry-After": str(AGAIN_S)})
    wanted, words = query.filter(), query.q
    with service.reading() as db:
        last = browse.last_id(db) if last_event_id is None else _place(db, last_event_id)
        id_of = event_ids(db)

    def look(db: Database, last: int) -> News:
        return news(db, wanted, words, after=last)

    return StreamingResponse(_lines(stream, last, look, id_of), media_type="text/event-stream", headers=HEADERS)


async def _lines(stream: Listeners, last: int, look: Look, id_of: Callable[[int], str]) -> AsyncIterator[str]:
    """The stream of one client. An `id` without `data` is no event: it says from where to go on."""
    if stream.is_full:
        yield FULL
        return
    yield f"{BEGIN}id: {id_of(last)}\n\n"
    async with aclosing(stream.follow(last, look)) as told:
        async for one in told:
            if one is None:
                yield ": alive\n\n"
            elif isinstance(one, str):
                yield f"event: problem\ndata: {as_problem(503, one)}\n\n"
            else:
                some = "".join(f"id: {id_of(event['id'])}\ndata: {json_text(event)}\n\n" for event in one.events)
                yield some + f"id: {id_of(one.through)}\n\n"


def _place(db: Database, text: str) -> int:
    """The number of the event that the stream goes on after. Raises Problem."""
    digits = text.rpartition("_")[2]
    number = 0 if digits == "0" else fields.number(digits)
    if number is None:
        raise Problem(422, f"Last-Event-ID: {text!r} is not an event ID: send the ID of the last event, unchanged")
    if of_other_ledgers(db, [EventId(text, number)]) or number >= next_number(db):
        raise Problem(422, f"Last-Event-ID: {text} is not of this ledger: read the list of events, and begin anew")
    return number
