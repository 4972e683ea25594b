"""GitLab's REST API as far as it is used, with its traps.

See docs/gitlab.md, "The webhook's log", docs/gitlab.md, "The Events API", docs/gitlab.md, "Lists of other objects",
and docs/gitlab.md, "Rate limits".
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
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

from reconciler.simulator.hook_api import HookApi
from reconciler.simulator.hooks import Courier
from reconciler.simulator.lists import Lists
from reconciler.simulator.paging import not_found, paged
from reconciler.simulator.world import Happening, World

PERIOD_S = 60


@dataclass
class ApiFaults:
    """What goes wrong when the API is asked. `next` holds (status, headers) for the coming requests."""

    next: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    slow_s: float = 0.0
    forbidden: dict[int, int] = field(default_factory=dict)
    """Projects that answer with this status."""
    forbidden_paths: dict[str, int] = field(default_factory=dict)
    """Requests whose path ends like this answer with this status."""
    hidden: Callable[[dict[str, Any]], bool] = lambda _: False
    """Records that the token may not see: taken out after paging, so that pages come up short."""
    mangle: Callable[[str, Any], Any] | None = None
    """What becomes of an answer: it is given the path and the JSON."""
    added_headers: dict[str, str] = field(default_factory=dict)
    """What every answer's headers say beside, or instead of, what they should."""
    record_delay_ms: int = 0
    """How long after it happened a record becomes visible."""


@dataclass
class Api:
    """State of the simulated API. `limit` is how many requests it answers in a minute."""

    world: World
    courier: Courier
    token: str = "glpat-simulator"  # noqa: S105 - it guards nothing
    scopes: tuple[str, ...] = ("api",)
    expires_at: str | None = None
    """The token's last day."""
    faults: ApiFaults = field(default_factory=ApiFaults)
    zone: timezone = UTC
    limit: int | None = None
    requests: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """Answers with 429."""

    def app(self) -> Starlette:
        project = "/api/v4/projects/{project:path}"
        return Starlette(
            routes=[
                Route("/api/v4/version", self.version),
                Route("/api/v4/personal_access_tokens/self", self.own_token),
                Route("/api/v4/events", self.feed),
                Route("/api/v4/groups/{group:path}/projects", self.group_projects),
                *HookApi(self.world, self.courier, self._find_group).routes("/api/v4/groups/{group:path}"),
                Route("/api/v4/groups/{group:path}", self.group),
                *HookApi(self.world, self.courier, self._find).routes(project),
                *Lists(self.world, self._find).routes(project),
                Route(f"{project}/events", self.events),
                Route("/api/v4/projects", self.projects),
                Route(project, self.project),
            ],
            middleware=[Middleware(_Trouble, api=self), Middleware(_Mangled, api=self)],
        )

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": "18.0.0-ee", "revision": "simulator"})

    async def own_token(self, _: Request) -> Response:
        shown = {"id": 1, "name": "simulator", "active": True, "scopes": list(self.scopes)}
        return JSONResponse({**shown, "expires_at": self.expires_at})

    async def project(self, request: Request) -> Response:
        found = self._find(request)
        return found if isinstance(found, Response) else JSONResponse(self.world.projects[found].shown())

    async def projects(self, request: Request) -> Response:
        """The token's projects, those that were active last first; `search` is a part of their path."""
        wanted = request.query_params.get("search", "").lower()
        after = request.query_params.get("last_activity_after")
        own = [project for number, project in self.world.projects.items() if self.world.is_member(number)]
        own = [project for project in own if wanted in project.place.path.lower()]
        shown = [project.shown() for project in own if not project.archived]
        active = [p for p in shown if not after or p["last_activity_at"] >= after]
        return paged(request, sorted(active, key=lambda p: p["last_activity_at"], reverse=True))

    async def group(self, request: Request) -> Response:
        found = self._find_group(request)
        if isinstance(found, Response):
            return found
        path = self.world.groups[-found]
        return JSONResponse({"id": -found, "full_path": path, "name": path.rpartition("/")[2]})

    async def group_projects(self, request: Request) -> Response:
        """A group's projects, in subgroups too."""
        group = request.path_params["group"]
        below = [p for p in self.world.projects.values() if p.place.path.startswith(f"{group}/")]
        with_archived = request.query_params.get("archived") != "false"
        shown = [p.shown() for p in below if with_archived or not p.archived]
        return paged(request, shown) if below else not_found()

    async def events(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        return self._records(request, (h for h in self.world.happenings if h.project_id == found))

    async def feed(self, request: Request) -> Response:
        """`scope=all`: the records of the projects of which the token's user is a member."""
        return self._records(request, (h for h in self.world.happenings if self.world.is_member(h.project_id)))

    def _records(self, request: Request, happenings: Iterable[Happening]) -> Response:
        now = self.world.clock()
        records = [
            h.record
            for h in happenings
            if h.record is not None
            and h.record_visible_at + self.faults.record_delay_ms <= now
            and self._between(h.record, request.query_params.get("after"), request.query_params.get("before"))
        ]
        records.sort(key=lambda r: r["id"], reverse=request.query_params.get("sort", "desc") == "desc")
        return paged(request, records, hidden=self.faults.hidden)

    def _find(self, request: Request) -> int | Response:
        name = request.path_params["project"]
        by_path = {project.place.path: number for number, project in self.world.projects.items()}
        found = int(name) if name.isdigit() else by_path.get(name, 0)
        if found in self.faults.forbidden:
            return JSONResponse({"message": "forbidden by the simulator"}, self.faults.forbidden[found])
        for ending, status in self.faults.forbidden_paths.items():
            if request.url.path.endswith(ending):
                return JSONResponse({"message": "forbidden by the simulator"}, status)
        return found if found in self.world.projects else not_found()

    def _find_group(self, request: Request) -> int | Response:
        """A group's id below zero. One that was not added is there all the same, where a project is below it."""
        name = request.path_params["group"]
        if not name.isdigit() and name not in self.world.groups.values():
            if not any(p.place.path.startswith(f"{name}/") for p in self.world.projects.values()):
                return not_found()
            self.world.add_group(self.world.new_id(), name)
        by_path = {path: number for number, path in self.world.groups.items()}
        return -(int(name) if name.isdigit() else by_path[name])

    def _between(self, record: dict[str, Any], after: str | None, before: str | None) -> bool:
        """Whole days, both excluded, in the server's own time zone."""
        created = datetime.fromisoformat(record["created_at"])
        if after and created < self._start(date.fromisoformat(after) + timedelta(days=1)):
            return False
        return not (before and created >= self._start(date.fromisoformat(before)))

    def _start(self, day: date) -> datetime:
        return datetime.combine(day, clock_time(), tzinfo=self.zone)


class _Trouble:
    """Checks the token, counts requests against the limit, and makes the faults that were asked for."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self.app = app
        self.api = api
        self._period = 0
        self._used = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        api, request = self.api, Request(scope)
        api.requests[request.url.path] += 1
        if api.faults.slow_s:
            await asyncio.sleep(api.faults.slow_s)
        limit = self._limit_headers()
        refusal: Response | None = None
        if request.headers.get("private-token") != api.token:
            refusal = JSONResponse({"message": "401 Unauthorized"}, 401)
        elif api.faults.next:
            status, headers = api.faults.next.pop(0)
            refusal = JSONResponse({"message": f"{status} by the simulator"}, status, headers)
            limit = {}
        elif api.limit is not None and self._used > api.limit:
            api.refused += 1
            refusal = JSONResponse({"message": "429 Too Many Requests"}, 429, {"Retry-After": "1"})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                moment = formatdate(api.world.clock() / 1000, usegmt=True)
                added = limit | api.faults.added_headers
                more = [(name.lower().encode(), value.encode()) for name, value in added.items()]
                names = {name for name, _ in more}
                own = [header for header in message.get("headers", []) if header[0] not in names]
                message["headers"] = [*own, (b"date", moment.encode()), *more]
            await send(message)

        await (refusal or self.app)(scope, receive, with_headers)

    def _limit_headers(self) -> dict[str, str]:
        """`RateLimit-*`, going by the machine's own clock: a limit is about real requests."""
        period = int(time.time()) // PERIOD_S
        if period != self._period:
            self._period, self._used = period, 0
        self._used += 1
        limit = self.api.limit or 1_000_000
        return {
            "RateLimit-Limit": str(limit),
            "RateLimit-Remaining": str(max(0, limit - self._used)),
            "RateLimit-Reset": str((period + 1) * PERIOD_S),
        }


class _Mangled:
    """Answers something else than was to be answered, where that was asked for."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self.app = app
        self.api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mangle = self.api.faults.mangle
        if mangle is None or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message = {}

        async def mangled(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            value = mangle(scope["path"], json.loads(message["body"]))
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            kept = [(name, text) for name, text in start["headers"] if name != b"content-length"]
            await send({**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
            await send({**message, "body": body})

        await self.app(scope, receive, mangled)
