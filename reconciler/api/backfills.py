"""Backfills as jobs: started, and followed."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from pydantic import Field

from reconciler.api.models import Answer
from reconciler.api.once import IdempotencyKey, carried_out
from reconciler.api.problems import Problem
from reconciler.api.queries import TIME, Query, Word
from reconciler.api.service import Json, Responses, Service, ServiceDep
from reconciler.events import fields, moments, times
from reconciler.events.times import Millis
from reconciler.ledger.coverage import backfills
from reconciler.polling.backfill_jobs import Asked, NotPossible
from reconciler.polling.backfill_range import newest, pruned_within, readable

PATH = "/api/v1/backfills/"

router = APIRouter()
NOT_NOW: Responses = {409: {"description": "Another backfill is running, or nothing is read from GitLab."}}
NONE: Responses = {404: {"description": "There is no such backfill."}}


class Backfill(Query):
    """What to read."""

    since: str = Field(alias="from", min_length=1, max_length=500, description=f"Read from {TIME}.")
    until: Word = Field(None, alias="to", description="Read up to the end of this date, or this time. Default: now.")
    project: Word = Field(None, description="Only this project (ID or path). Default: all that are watched.")
    dry_run: bool = Field(False, description="Read from GitLab and count, but record nothing.")


class Counts(Answer):
    """What was found: `seen` and `already_known` count reports, `new` events."""

    seen: int
    already_known: int
    new: int
    requests: int
    unreadable: int


class ProjectBackfill(Counts):
    """What was found in a project. `skipped`: the sources that GitLab does not let us read, and why."""

    project: str
    sources: dict[str, Counts]
    skipped: dict[str, str]
    error: str | None


class BackfillJob(Answer):
    """A backfill, and how far it is."""

    id: str
    state: Literal["running", "done", "failed", "interrupted"]
    progress: float = Field(description="The part of the projects' time that was read, from 0 to 1.")
    since: str = Field(alias="from")
    to: str
    project: str | None
    dry_run: bool
    started_at: str
    finished_at: str | None
    error: str | None
    groups_not_read: dict[str, str]
    projects: list[ProjectBackfill]


@router.post("/backfills", response_model=BackfillJob, status_code=202, responses=NOT_NOW, tags=["backfills"])
def start_backfill(service: ServiceDep, body: Backfill, idempotency_key: IdempotencyKey = None) -> Response:
    """Read the events of a time range from GitLab's API into the ledger: as `backfill`. `Location` says where to
    follow it.

    One runs at a time, within GitLab's rate limit, which it shares with the polls. If the service stops or its config
    is reloaded, it is interrupted: start it again, and what was read is not read again.
    """
    request = ["backfills", body.model_dump(mode="json")]
    answer = carried_out(service, idempotency_key, request, lambda: _start(service, body))
    answer.status_code = 202
    answer.headers["Location"] = PATH + json.loads(bytes(answer.body))["id"]
    return answer


@router.get("/backfills/{backfill_id}", response_model=BackfillJob, responses=NONE, tags=["backfills"])
def get_backfill(service: ServiceDep, backfill_id: Annotated[str, Path(min_length=1, max_length=80)]) -> Response:
    """A backfill, and how far it is. The latest 20 are kept."""
    found = service.backfills.find(backfill_id)
    if found is None:
        with service.reading() as db:
            found = backfills.find(db, backfill_id)
    if found is None:
        raise Problem(404, f"there is no backfill {backfill_id!r}")
    return Json(found)


def _start(service: Service, body: Backfill) -> Any:
    config = service.current()
    grace_period = config.reconcile.grace_period
    try:
        start, end = moments.time_range(body.since, body.until)
        window = readable(start or Millis(0), end or newest(grace_period), grace_period=grace_period).window
    except ValueError as error:
        raise Problem(422, f"from, to: {error}") from None
    if not body.dry_run and (pruned := pruned_within(config.ledger.location, window)) is not None:
        why = "they would be recorded as new and delivered again: start later"
        raise Problem(422, f"from: events up to {times.iso(pruned)} were pruned: {why}")
    project = None if body.project is None else fields.number(body.project) or body.project
    try:
        return service.backfills.start(Asked(window, project, body.dry_run))
    except NotPossible as error:
        raise Problem(409, str(error)) from None
