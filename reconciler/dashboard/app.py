"""The dashboard's routes. Threads read the pages from the ledger, so that no page delays a webhook."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from reconciler.api.mount import Api
from reconciler.api.problems import problem
from reconciler.config.models import Config
from reconciler.dashboard import actions, destination, finding, views
from reconciler.dashboard.guard import COOKIE, TOO_MANY, AdminGuard, form_of
from reconciler.dashboard.messages import Messages
from reconciler.dashboard.render import templates, today
from reconciler.dashboard.stream import Stream
from reconciler.events import times
from reconciler.forwarding.pulling import Pulls
from reconciler.ledger.errors import LedgerError, LedgerUnavailable
from reconciler.ledger.storage.connection import explain, look_at
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import read_event_id
from reconciler.ledger.views.browse import FAR
from reconciler.ledger.views.unknowns import Known
from reconciler.polling.backfill_jobs import BackfillJobs

log = structlog.get_logger(__name__)

Current = Callable[[], Config]


def dashboard_app(
    current: Current,
    *,
    known: Callable[[], Known],
    stream: Stream,
    pulls: Pulls,
    trouble: Callable[[], str | None] = lambda: None,
    backfills: BackfillJobs | None = None,
) -> ASGIApp:
    """The ASGI app of the admin port. `current` returns the current config; `known` returns what is known and
    unknown, and may take a moment; `pulls` hands out events to those who fetch them; `trouble` returns why the file
    at the ledger's path must not be shown, if it is not the service's; `backfills` starts backfills.
    """
    pages = _Pages(current, known, stream, trouble)
    routes = [
        Route("/", pages.front),
        Route("/events", pages.events),
        Route("/events/{event_id:int}", pages.event),
        Route("/events/{event_id:int}/payload", pages.payload),
        Route("/events/{event_id:int}/payload/raw", pages.raw_payload),
        Route("/events/{event_id:int}/curl", pages.curl),
        Route("/events/{event_id:int}/replay", pages.replay_event, methods=["POST"]),
        Route("/dead-letters", pages.dead_letters),
        Route("/dead-letters/replay", pages.replay_dead_letters, methods=["POST"]),
        Route("/destinations/{name}", pages.destination),
        Route("/destinations/{name}/{act}", pages.change_destination, methods=["POST"]),
        Route("/unrecorded", pages.unrecorded),
        Route("/runs", pages.runs),
        Route("/stream", pages.stream),
        Route("/login", pages.login, methods=["GET", "POST"]),
        Mount("/api/v1", Api(current, known, stream, backfills or BackfillJobs(), pulls, trouble)),
        Mount("/static", StaticFiles(packages=[("reconciler.dashboard", "static")])),
    ]
    handlers: dict[Any, Any] = {LedgerError: pages.unreadable, sqlite3.Error: pages.unreadable, 404: _nothing_there}
    return AdminGuard(Starlette(routes=routes, exception_handlers=handlers), current().admin)


def _nothing_there(request: Request, _: Exception) -> Response:
    """The API's own app gets no path with a line end in it: no route matches that."""
    if request.scope["path"].startswith("/api/v1/"):
        return problem(404, "there is nothing at this path: /api/v1/docs lists what there is")
    return PlainTextResponse("Not Found", 404)


class _Pages:
    def __init__(
        self, current: Current, known: Callable[[], Known], stream: Stream, trouble: Callable[[], str | None]
    ) -> None:
        self._current = current
        self._known = known
        self._stream = stream
        self._trouble = trouble
        self._templates = templates()
        self._messages = Messages()

    async def front(self, request: Request) -> Response:
        page, config = _number(request, "page", 0), self._current()

        def look(db: Database) -> dict[str, Any]:
            return views.front(db, config, self._known(), now=times.now(), page=page)

        return await self._page(request, "overview.html", look)

    async def events(self, request: Request) -> Response:
        what = finding.asked(request.query_params)
        if "" in (request.query_params.get(name) for name in ("q", *finding.NAMES)):  # a form sends all its fields
            return RedirectResponse(what.url(), 303)

        def opened() -> int | None:
            with look_at(self._current().ledger.location, self._trouble) as db:
                return finding.named_event(db, what)

        if read_event_id(what.words) and (number := await run_in_threadpool(opened)) is not None:
            return RedirectResponse(f"/events/{number}", 303)
        return await self._page(
            request, "events.html", partial(finding.page, config=self._current(), what=what)
        )  # fmt: skip

    async def event(self, request: Request) -> Response:
        look = partial(views.event, config=self._current(), event_id=_event_id(request))
        return await self._page(request, "event.html", look, here="/events")

    async def curl(self, request: Request) -> Response:
        name = request.query_params.get("destination", "")
        look = partial(views.curl, config=self._current(), event_id=_event_id(request), destination=name)
        return await self._page(request, "curl.html", look, here="/events")

    async def payload(self, request: Request) -> Response:
        name = f"event-{_event_id(request)}.json"
        return await self._payload(request, "application/json", f'attachment; filename="{name}"')

    async def raw_payload(self, request: Request) -> Response:
        return await self._payload(request, "text/plain", "inline")

    async def _payload(self, request: Request, media_type: str, disposition: str) -> Response:
        def look() -> str | None:
            with look_at(self._current().ledger.location, self._trouble) as db:
                return views.payload(db, _event_id(request))

        found = await run_in_threadpool(look)
        if found is None:
            return PlainTextResponse("There is no such event in this ledger.\n", 404)
        headers = {"Content-Disposition": disposition}
        return Response(found.encode("utf-8", "replace"), media_type=media_type, headers=headers)

    async def dead_letters(self, request: Request) -> Response:
        destination, kind = request.query_params.get("destination"), request.query_params.get("kind")
        look = partial(views.dead_letters_page, config=self._current(), destination=destination, kind=kind)
        return await self._page(request, "dead_letters.html", look)

    async def unrecorded(self, request: Request) -> Response:
        return await self._page(request, "unrecorded.html", views.webhooks_not_recorded)

    async def runs(self, request: Request) -> Response:
        before = _number(request, "before", FAR)
        return await self._page(request, "runs.html", partial(views.runs, before=before))

    async def replay_event(self, request: Request) -> Response:
        event_id = _event_id(request)
        return await self._act(
            request, f"/events/{event_id}",
            lambda config, form: actions.replay_event(config, event_id, form["destination"]),
        )  # fmt: skip

    async def replay_dead_letters(self, request: Request) -> Response:
        return await self._act(
            request, "/dead-letters",
            lambda config, form: actions.replay_dead_letters(
                config, form["destination"] or None, form["kind"] or None
            ),
        )  # fmt: skip

    async def destination(self, request: Request) -> Response:
        name, config = request.path_params["name"], self._current()

        def look(db: Database) -> dict[str, Any] | None:
            return destination.page(db, config, name, now=times.now())

        return await self._page(request, "destination.html", look, here="/", missing="There is no such destination.")

    async def change_destination(self, request: Request) -> Response:
        name, act = request.path_params["name"], request.path_params["act"]
        own_page = (await form_of(request)).get("from") == "page"
        return await self._act(
            request, f"/destinations/{quote(name, safe='')}" if own_page else "/",
            lambda config, form: actions.change_destination(config, name, act, form.get("reason", "")),
        )  # fmt: skip

    async def stream(self, request: Request) -> Response:
        self._check_file()
        macros: Any = self._templates.get_template("macros.html").module
        last = _whole(request.headers.get("last-event-id", ""), _number(request, "after", 0))
        made = self._stream.lines(last, macros.event_row, macros.trouble_row)
        return StreamingResponse(made, media_type="text/event-stream")

    async def login(self, request: Request) -> Response:
        guard: AdminGuard = request.state.guard
        wrong = False
        if request.method == "POST" and await guard.is_own_form(request):
            if wait := guard.ignored_for_s(request):
                return PlainTextResponse(TOO_MANY, 429, {"Retry-After": str(wait)})
            if guard.is_token((await form_of(request)).get("token", ""), request):
                answer = RedirectResponse("/", 303)
                secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
                answer.set_cookie(COOKIE, guard.session, httponly=True, samesite="strict", secure=secure)
                return answer
            wrong = True
        html = self._templates.get_template("login.html").render(guard=guard, wrong=wrong)
        return HTMLResponse(html, 403 if wrong else 200)

    async def unreadable(self, request: Request, error: Exception) -> Response:
        """Answer with a page that says why the ledger can't be read."""
        why = explain(error) if isinstance(error, sqlite3.Error) else str(error)
        log.error("page not rendered", path=request.url.path, reason=why)
        made = {"here": request.url.path, "guard": request.state.guard, "message": "", "made": today(times.now())}
        said = {"title": "The ledger can’t be read", "text": why}
        if request.method == "GET" and "/payload" not in request.url.path:  # that is no page
            said["retried"] = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return HTMLResponse(self._templates.get_template("message.html").render(made | said), 503)

    def _check_file(self) -> None:
        """Raises LedgerUnavailable if the file at the ledger's path is not the service's: it must not be shown or
        changed.
        """
        trouble = self._trouble()
        if trouble is not None:
            raise LedgerUnavailable(trouble)

    async def _page(
        self,
        request: Request,
        name: str,
        look: Callable[[Database], dict[str, Any] | None],
        *,
        here: str | None = None,
        missing: str = "There is no such event in this ledger.",
    ) -> Response:
        common = {
            "here": here or request.url.path,
            "guard": request.state.guard,
            "message": self._messages.get(request.query_params.get("message", "")),
        }

        def make() -> tuple[str, int]:
            config = self._current()
            with look_at(config.ledger.location, self._trouble) as db:
                found = look(db)
            made = common | {"made": today(times.now())}
            if found is None:
                said = {"title": "Not found", "text": missing}
                return self._templates.get_template("message.html").render(made | said), 404
            return self._templates.get_template(name).render(made | found), 200

        html, status = await run_in_threadpool(make)
        return HTMLResponse(html.encode("utf-8", "replace"), status)  # UTF-8 has no lone surrogates

    async def _act(self, request: Request, back: str, act: Callable[[Config, dict[str, str]], str]) -> Response:
        """Do what a form asks, and redirect to its page, which shows what was done."""
        guard: AdminGuard = request.state.guard
        if not await guard.is_own_form(request):
            return HTMLResponse("this form was not sent from a page of the dashboard\n", 403)
        form = {"destination": "", "kind": ""} | await form_of(request)
        self._check_file()
        message = self._messages.keep(await run_in_threadpool(act, self._current(), form))
        return RedirectResponse(f"{back}?{urlencode({'message': message})}", 303)


def _event_id(request: Request) -> int:
    return _whole(str(request.path_params["event_id"]), 0)


def _number(request: Request, name: str, otherwise: int) -> int:
    return _whole(request.query_params.get(name, ""), otherwise)


def _whole(text: str, otherwise: int) -> int:
    """Parse a number that SQLite can store."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else otherwise
