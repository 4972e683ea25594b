"""Fetching the events of a destination of `kind: pull`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, Field
from starlette.concurrency import run_in_threadpool

from reconciler.api import models, queries
from reconciler.api.problems import Problem
from reconciler.api.service import Json, Responses, ServiceDep
from reconciler.config.units import DurationOrNone
from reconciler.events.fields import as_json, with_payload
from reconciler.events.times import MINUTE, Millis
from reconciler.forwarding.message import Message
from reconciler.forwarding.pull_cursor import LONGEST
from reconciler.forwarding.pulling import Batch, Ledgers, NotPulled, NotServed, Paused, TooMany, WrongCursor
from reconciler.ledger.queue.deliveries import Outgoing

MOST_EVENTS = 1000
AGAIN_S = 5

router = APIRouter()
REFUSED: Responses = {
    400: {"description": "The cursor is not one of this destination's."},
    404: {"description": "There is no such destination of `kind: pull`."},
    409: {"description": "The destination is paused."},
}


def _at_most_a_minute(wait: Millis) -> Millis:
    if wait > MINUTE:
        raise ValueError("should be at most 60s")
    return wait


class PullQuery(queries.Query):
    """Parameters of a request for events."""

    cursor: str | None = Field(
        None,
        max_length=2 * LONGEST,
        description="`cursor` of the answer before: acknowledges its events. Without it, nothing is acknowledged.",
    )
    wait: Annotated[DurationOrNone, AfterValidator(_at_most_a_minute)] = Field(
        "0s",
        validate_default=True,
        description="If nothing is pending, how long to wait for an event: at most 60s.",
    )
    limit: int = Field(100, ge=1, le=MOST_EVENTS, description="At most this many events.")


@router.get("/destinations/{name}/events", response_model=models.Pulled, responses=REFUSED, tags=["destinations"])
async def pull_events(
    request: Request, service: ServiceDep, name: str, query: Annotated[PullQuery, Query()]
) -> Response:
    """Fetch the pending events of a destination of `kind: pull`, and acknowledge those of the answer before by its
    `cursor`. What is not acknowledged is in the next answer again. This changes something, so it needs `admin.token`.
    """
    if (why := request.state.may_not_write) is not None:
        raise Problem(403, why)
    try:
        batch = await service.pulls.pull(
            Ledgers(service.reading, service.writing),
            name,
            query.cursor,
            limit=query.limit,
            wait=query.wait,
            is_gone=request.is_disconnected,
        )
    except WrongCursor:
        what = "send `cursor` of the answer before, unchanged, or none to get what is pending again"
        raise Problem(400, f"cursor: is none of this destination's: {what}") from None
    except NotPulled as error:
        raise Problem(404, str(error)) from None
    except Paused as error:
        raise Problem(409, str(error)) from None
    except NotServed as error:
        raise Problem(503, str(error)) from None
    except TooMany as error:
        raise Problem(503, str(error), {"Retry-After": str(AGAIN_S)}) from None
    return await run_in_threadpool(_answer, batch)  # it may be megabytes


def _answer(batch: Batch) -> Response:
    events = ",".join(_event(event, message) for event, message in batch.events)
    return Json(f'{{"events":[{events}],"cursor":"{batch.cursor}"}}')


def _event(event: Outgoing, message: Message) -> str:
    about = event.summary
    made = {
        "id": message.id,
        "happened_at": event.happened_at,
        "project_id": about.project_id,
        "project_path": about.project_path,
        "kind": about.kind,
        "action": about.action,
        "headers": message.headers,
    }
    body, content_type = message.body.decode("utf-8", "replace"), message.headers["Content-Type"]
    if "json" not in content_type:
        body = as_json(body)
    return with_payload(as_json(made), body, name="body")
