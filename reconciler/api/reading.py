"""What can be read: events, destinations, dead letters, and what is known of projects."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from reconciler.api import known, models
from reconciler.api.etags import NOT_MODIFIED, IfNoneMatch, tagged
from reconciler.api.problems import Problem
from reconciler.api.queries import DeadLetterQuery, EventQuery, Page, cursor
from reconciler.api.service import Json, Responses, ServiceDep, event_number
from reconciler.events import times
from reconciler.events.fields import as_json, with_payload
from reconciler.forwarding.listing import destination_rows
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.storage.connection import unfit
from reconciler.ledger.views import browse, dead_letters, overview, search, status
from reconciler.ledger.views.backlog import backlog
from reconciler.ledger.views.browse import FAR
from reconciler.polling import reports

router = APIRouter()
NOT_FOUND: Responses = {404: {"description": "There is no such event."}}
BYTES: Responses = {200: {"content": {"application/json": {"schema": {}}}}}


@router.get("/status", response_model=known.Status, responses=NOT_MODIFIED, tags=["status"])
def get_status(service: ServiceDep, if_none_match: IfNoneMatch = None) -> Response:
    """An overview of everything: as `status --json`."""
    with service.reading() as db:
        found = reports.status_report(db, service.current(), now=times.now())
    found = msgspec.structs.replace(found, unfit=unfit(service.current().ledger.location))
    return tagged(Json(msgspec.to_builtins(found)), if_none_match)


@router.get("/events", response_model=models.Events, tags=["events"])
def list_events(service: ServiceDep, query: Annotated[EventQuery, Query()]) -> Response:
    """Events, newest first: by when they happened if `from` or `to` is given and `q` is not, otherwise by when they
    were recorded. New events never move a page.
    """
    wanted = query.filter()
    before = query.before(wanted)
    with service.reading() as db:
        if query.q is None:
            rows = browse.page(db, wanted, limit=query.limit + 1, before=before)
        else:
            end = FAR if before is None else before.event_id
            rows = search.find_filtered(db, query.q, wanted, before=end, limit=query.limit + 1)
    end_of_page = None
    if len(rows) > query.limit:
        last = rows[query.limit - 1]
        at = browse.place_of(wanted, last).happened_at if query.q is None else None
        end_of_page = cursor(EventQuery, last["id"], at or "")
    return Json({"events": rows[: query.limit], "next": end_of_page})


@router.get(
    "/events/{event_id}", response_model=models.WholeEvent, responses=NOT_FOUND | NOT_MODIFIED, tags=["events"]
)
def get_event(service: ServiceDep, event_id: str, if_none_match: IfNoneMatch = None) -> Response:
    """An event with its sightings, deliveries, attempts and payload: as `events show --json`. The ID is a number, or
    the ID that destinations receive.
    """
    with service.reading() as db:
        found = browse.show(db, number := event_number(db, event_id))
        if found is None:
            raise _no_event(event_id)
        found["attempts"] = dead_letters.attempts(db, number)
    payload = found.pop("payload")
    return tagged(Json(with_payload(as_json(found), payload or "null")), if_none_match)


@router.get(
    "/events/{event_id}/payload",
    response_class=Response,
    responses=NOT_FOUND | BYTES,
    tags=["events"],
)
def get_payload(service: ServiceDep, event_id: str) -> Response:
    """The payload of an event, byte by byte as GitLab sent it."""
    with service.reading() as db:
        found = browse.show(db, number := event_number(db, event_id))
    if found is None:
        raise _no_event(event_id)
    if found["merged_into"] is not None:
        raise Problem(404, f"event {event_id} is the same as event {found['merged_into']}, which has the payload")
    if found["payload"] is None:
        raise Problem(404, f"event {event_id} has no payload that can be read")
    headers = {"Content-Disposition": f'attachment; filename="event-{number}.json"'}
    return Response(found["payload"].encode("utf-8", "replace"), media_type="application/json", headers=headers)


@router.get("/destinations", response_model=models.Destinations, tags=["destinations"])
def list_destinations(service: ServiceDep) -> Response:
    """All destinations with their state, pending events and dead letters: as `destinations list --json`."""
    with service.reading() as db:
        rows = destination_rows(service.current(), status.destination_statuses(db))
    return Json({"destinations": rows})


@router.get("/dead-letters", response_model=models.DeadLetters, tags=["dead letters"])
def list_dead_letters(service: ServiceDep, query: Annotated[DeadLetterQuery, Query()]) -> Response:
    """Deliveries that failed and are not retried, newest event first."""
    wanted, before = query.filter(), query.before()
    with service.reading() as db:
        rows = dead_letters.page(db, wanted, destination=query.destination, limit=query.limit + 1, before=before)
    end_of_page = None
    if len(rows) > query.limit:
        last = rows[query.limit - 1]
        end_of_page = cursor(DeadLetterQuery, last["id"], last["destination"])
    return Json({"dead_letters": rows[: query.limit], "next": end_of_page})


@router.get("/projects", response_model=known.Projects, tags=["status"])
def list_projects(service: ServiceDep) -> Response:
    """All known projects with their coverage and gaps: the `projects` of `status --json`."""
    with service.reading() as db:
        found = reports.status_report(db, service.current(), now=times.now())
    return Json({"projects": msgspec.to_builtins(found.projects)})


@router.get("/coverage", response_model=known.Coverage, tags=["status"])
def list_coverage(service: ServiceDep) -> Response:
    """The time that each source of each project has read completely: `complete` of `gaps --json`."""
    with service.reading() as db:
        return Json({"complete": reports.complete_report(db)})


@router.get("/gaps", response_model=known.Gaps, tags=["status"])
def list_gaps(service: ServiceDep) -> Response:
    """What is not known, and the gaps in what is: as `gaps --json`."""
    found = service.known()
    with service.reading() as db:
        paths = reports.project_paths(db)
    return Json(reports.unknown_report(found) | reports.gap_report(found, paths))


@router.get("/runs", response_model=known.Runs, tags=["status"])
def list_runs(service: ServiceDep, query: Annotated[Page, Query()]) -> Response:
    """What was read from GitLab, newest first."""
    place = query.place()
    if place is not None and place[1]:
        raise query.wrong_cursor()
    with service.reading() as db:
        rows = overview.runs(db, before=FAR if place is None else place[0], limit=query.limit + 1)
    end_of_page = cursor(Page, rows[query.limit - 1]["id"]) if len(rows) > query.limit else None
    return Json({"runs": rows[: query.limit], "next": end_of_page})


@router.get("/intake", response_model=known.Intake, tags=["status"])
def get_intake(service: ServiceDep) -> Response:
    """Webhooks that wait to be recorded, and those that could not be: as `intake list --json`."""
    with service.reading() as db:
        waits, found = backlog(db), unrecorded.unrecorded(db)
    return Json({"backlog": msgspec.to_builtins(waits), "unrecorded": msgspec.to_builtins(found)})


def _no_event(event_id: str) -> Problem:
    return Problem(404, f"there is no event {event_id} in this ledger")
