"""The endpoints of GitLab's REST API that are used, with their traps (gitlab-facts, sections 2, 3 and 6)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock_time
from email.utils import formatdate
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.simulator.hooks import Courier, Hook
from reconciler.simulator.world import Happening, World

TOTALS_VANISH_AT = 10_000


@dataclass
class ApiFaults:
    """What goes wrong when the API is asked. `next` holds (status, headers) for the coming requests."""

    next: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    slow_s: float = 0.0
    forbidden: dict[int, int] = field(default_factory=dict)
    """Projects that answer with this status."""
    hidden: Callable[[dict[str, Any]], bool] = lambda _: False
    """Records that the token may not see: taken out after paging, so that pages come up short."""
    record_delay_ms: int = 0
    """How long after it happened a record becomes visible."""


@dataclass
class Api:
    """State of the simulated API."""

    world: World
    courier: Courier
    token: str = "glpat-simulator"  # noqa: S105 - it guards nothing
    scopes: tuple[str, ...] = ("read_api",)
    faults: ApiFaults = field(default_factory=ApiFaults)
    zone: timezone = UTC
    requests: Counter[str] = field(default_factory=Counter)

    def app(self) -> Starlette:
        project = "/api/v4/projects/{project:path}"
        return Starlette(
            routes=[
                Route("/api/v4/version", self.version),
                Route("/api/v4/personal_access_tokens/self", self.own_token),
                Route(f"{project}/hooks/{{hook:int}}/events", self.hook_log),
                Route(f"{project}/events", self.events),
                Route(f"{project}/hooks/{{hook:int}}", self.hook),
                Route(f"{project}/hooks", self.hooks),
                Route(project, self.project),
            ],
            middleware=[Middleware(_Trouble, api=self)],
        )

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": "18.0.0-ee", "revision": "simulator"})

    async def own_token(self, _: Request) -> Response:
        return JSONResponse({"id": 1, "name": "simulator", "active": True, "scopes": list(self.scopes)})

    async def project(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        return JSONResponse(self.world.projects[found].place.shown())

    async def events(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        now = self.world.clock()
        listed = [
            h
            for h in self.world.happenings
            if h.record is not None
            and h.project_id == found
            and h.record_visible_at + self.faults.record_delay_ms <= now
            and self._between(h, request.query_params.get("after"), request.query_params.get("before"))
        ]
        records = [h.record for h in listed if h.record is not None]
        records.sort(key=lambda r: r["id"], reverse=request.query_params.get("sort", "desc") == "desc")
        page = max(1, int(request.query_params.get("page", 1)))
        per_page = min(100, max(1, int(request.query_params.get("per_page", 20))))
        cut = records[(page - 1) * per_page : page * per_page]
        shown = [record for record in cut if not self.faults.hidden(record)]  # after paging: short pages
        return JSONResponse(shown, headers=_paging(request, page, per_page, len(records)))

    async def hooks(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        own = [hook for hook in self.courier.hooks.values() if hook.project_id == found]
        return JSONResponse([_shown(hook) for hook in own])

    async def hook(self, request: Request) -> Response:
        hook = self.courier.hooks.get(request.path_params["hook"])
        return _not_found() if hook is None else JSONResponse(_shown(hook))

    async def hook_log(self, request: Request) -> Response:
        """Newest first, at most 20 a page, whatever is asked for."""
        hook = self.courier.hooks.get(request.path_params["hook"])
        if hook is None:
            return _not_found()
        page = max(1, int(request.query_params.get("page", 1)))
        per_page = min(20, max(1, int(request.query_params.get("per_page", 20))))
        newest_first = hook.log[::-1]
        cut = newest_first[(page - 1) * per_page : page * per_page]
        return JSONResponse(cut, headers=_paging(request, page, per_page, len(newest_first)))

    def _find(self, request: Request) -> int | Response:
        name = request.path_params["project"]
        by_path = {project.place.path: number for number, project in self.world.projects.items()}
        found = int(name) if name.isdigit() else by_path.get(name, 0)
        if found in self.faults.forbidden:
            return JSONResponse({"message": "forbidden by the simulator"}, self.faults.forbidden[found])
        return found if found in self.world.projects else _not_found()

    def _between(self, happening: Happening, after: str | None, before: str | None) -> bool:
        """Whole days, both excluded, in the server's own time zone."""
        assert happening.record is not None  # noqa: S101 - the caller looked
        created = datetime.fromisoformat(happening.record["created_at"])
        if after and created < self._start(date.fromisoformat(after) + timedelta(days=1)):
            return False
        return not (before and created >= self._start(date.fromisoformat(before)))

    def _start(self, day: date) -> datetime:
        return datetime.combine(day, clock_time(), tzinfo=self.zone)


class _Trouble:
    """Checks the token, counts requests and makes the faults that were asked for."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self.app = app
        self.api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        api, request = self.api, Request(scope)
        api.requests[request.url.path] += 1
        if api.faults.slow_s:
            await asyncio.sleep(api.faults.slow_s)
        refusal: Response | None = None
        if request.headers.get("private-token") != api.token:
            refusal = JSONResponse({"message": "401 Unauthorized"}, 401)
        elif api.faults.next:
            status, headers = api.faults.next.pop(0)
            refusal = JSONResponse({"message": f"{status} by the simulator"}, status, headers)

        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                moment = formatdate(api.world.clock() / 1000, usegmt=True)
                message["headers"] = [*message.get("headers", []), (b"date", moment.encode())]
            await send(message)

        await (refusal or self.app)(scope, receive, dated)


def _paging(request: Request, page: int, per_page: int, total: int) -> dict[str, str]:
    more = page * per_page < total
    headers = {
        "X-Page": str(page),
        "X-Per-Page": str(per_page),
        "X-Next-Page": str(page + 1) if more else "",
        "RateLimit-Limit": "2000",
        "RateLimit-Remaining": "1999",
        "RateLimit-Reset": str(int(time.time()) + 60),
    }
    if total < TOTALS_VANISH_AT:
        headers |= {"X-Total": str(total), "X-Total-Pages": str(-(-total // per_page))}
    if more:
        headers["Link"] = f'<{request.url.include_query_params(page=page + 1)}>; rel="next"'
    return headers


def _shown(hook: Hook) -> dict[str, Any]:
    until = datetime.fromtimestamp(hook.disabled_until, tz=UTC).isoformat() if hook.disabled_until else None
    return {
        "id": hook.id,
        "url": hook.url,
        "project_id": hook.project_id,
        "alert_status": hook.alert_status,
        "disabled_until": until,
    }


def _not_found() -> Response:
    return JSONResponse({"message": "404 Project Not Found"}, 404)
