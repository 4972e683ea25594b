"""The endpoints about webhooks: settings, log, test, resend.

See docs/gitlab.md, "The webhook's log", docs/gitlab.md, "Test deliveries", and docs/gitlab.md, "Webhook settings".
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reconciler.simulator.hooks import Courier, Hook, webhook_bytes
from reconciler.simulator.paging import not_found, paged
from reconciler.simulator.payloads import ZEROS, Person, Place, push_webhook
from reconciler.simulator.world import World

LOG_PAGE = 20
TESTS_A_PERIOD = 5
TEST_PERIOD_MS = 60_000
SAMPLE_COMMITS = 3
WRITES = ("url", "token", "signing_token")


class HookApi:
    """Endpoints below `/projects/:id/hooks`."""

    def __init__(self, world: World, courier: Courier, find: Callable[[Request], int | Response]) -> None:
        self._world = world
        self._courier = courier
        self._find = find
        self._tests: dict[int, list[int]] = {}

    def routes(self, project: str) -> list[Route]:
        one = f"{project}/hooks/{{hook:int}}"
        return [
            Route(f"{one}/events/{{record:int}}/resend", self.resend, methods=["POST"]),
            Route(f"{one}/events", self.log),
            Route(f"{one}/test/{{trigger}}", self.test, methods=["POST"]),
            Route(one, self.show),
            Route(one, self.change, methods=["PUT"]),
            Route(f"{project}/hooks", self.list),
            Route(f"{project}/hooks", self.create, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        return paged(request, [_shown(hook) for hook in self._courier.hooks.values() if hook.project_id == found])

    async def create(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        hook = Hook(0, found, "", clock=self._now, takes_signing_token=self._courier.takes_signing_tokens)
        hook.triggers = dict.fromkeys(hook.triggers, False)
        hook.triggers["push_events"] = True  # GitLab's own default
        _set(hook, await request.json())
        return JSONResponse(_shown(self._courier.add(hook)), 201)

    async def change(self, request: Request) -> Response:
        hook = self._hook(request)
        if hook is None:
            return not_found()
        _set(hook, await request.json())
        return JSONResponse(_shown(hook))

    async def show(self, request: Request) -> Response:
        hook = self._hook(request)
        return not_found() if hook is None else JSONResponse(_shown(hook))

    async def log(self, request: Request) -> Response:
        """Newest first; who asks for more than 20 a page is refused."""
        hook = self._hook(request)
        if int(request.query_params.get("per_page", LOG_PAGE)) > LOG_PAGE:
            return JSONResponse({"error": "per_page does not have a valid value"}, 400)
        return not_found() if hook is None else paged(request, hook.kept_log()[::-1], most=LOG_PAGE)

    async def test(self, request: Request) -> Response:
        """A test delivery, made while the caller waits; a success enables the hook again."""
        hook = self._hook(request)
        if hook is None:
            return not_found()
        if not self._may_test(hook.project_id):
            return JSONResponse({"message": {"error": "This endpoint has been requested too many times."}}, 429)
        if request.path_params["trigger"] in hook.faults.untestable:
            return JSONResponse({"message": "Ensure the project has something to tell of"}, 422)
        body = webhook_bytes(sample_push(self._world, hook.project_id))
        await run_in_threadpool(hook.faults.during_test)
        ok = await run_in_threadpool(self._courier.post, hook, "Push Hook", body, is_test=True)
        return JSONResponse({"message": "201 Created"}, 201) if ok else JSONResponse({"message": "failed"}, 422)

    async def resend(self, request: Request) -> Response:
        hook, record = self._hook(request), request.path_params["record"]
        if hook is None or record not in hook.originals:
            return not_found()
        ok = await run_in_threadpool(self._courier.resend, hook, record)
        return JSONResponse({"response_status": 200 if ok else 500}, 201)

    def _may_test(self, place: int) -> bool:
        """GitLab makes five tests a minute, for all the webhooks of a project together."""
        since = self._now() - TEST_PERIOD_MS
        self._tests[place] = [at for at in self._tests.get(place, []) if at > since]
        if len(self._tests[place]) == TESTS_A_PERIOD:
            return False
        self._tests[place].append(self._now())
        return True

    def _now(self) -> int:
        """The world's clock, whichever it has by then."""
        return self._world.clock()

    def _hook(self, request: Request) -> Hook | None:
        found = self._find(request)
        hook = self._courier.hooks.get(request.path_params["hook"])
        return hook if hook is not None and hook.project_id == found else None


def sample_push(world: World, project_id: int) -> dict[str, Any]:
    """A test's body: the newest commits of the default branch, as if they had been pushed just now. The oldest of
    them is named as the commit before; a project without commits is tested with a body of GitLab's own.
    """
    place, ref = world.projects[project_id].place, "refs/heads/main"
    head = world.projects[project_id].heads.get(ref, ZEROS)
    newest = world.compare(project_id, ZEROS, head)
    if not newest:
        before, after = "95790bf891e76fee5e1747ab589903a6a1f80f22", "da1560886d4f094c3e6c9ef40349f7d38b5d27d7"
        return push_webhook(Place(15, "gitlab/gitlab"), Person(4, "john"), "refs/heads/master", before, after, [])
    shown = newest[: -SAMPLE_COMMITS - 1 : -1]
    return push_webhook(place, world.people[0], ref, shown[-1]["id"], head, shown)


def _set(hook: Hook, settings: dict[str, Any]) -> None:
    hook.url = settings.get("url", hook.url)
    hook.token = settings.get("token", hook.token)
    if hook.takes_signing_token:
        hook.signing_token = settings.get("signing_token", hook.signing_token)
    for name, value in settings.items():
        if name in hook.triggers:
            hook.triggers[name] = bool(value)
        elif name not in WRITES:
            hook.settings[name] = value


def _shown(hook: Hook) -> dict[str, Any]:
    """Secrets are never shown."""
    until = datetime.fromtimestamp(hook.disabled_until, tz=UTC).isoformat() if hook.disabled_until else None
    return {
        "id": hook.id,
        "url": hook.url,
        "project_id": hook.project_id,
        "enable_ssl_verification": hook.settings.get("enable_ssl_verification", True),
        "push_events_branch_filter": hook.settings.get("push_events_branch_filter"),
        "branch_filter_strategy": hook.settings.get("branch_filter_strategy", "wildcard"),
        "custom_webhook_template": hook.settings.get("custom_webhook_template", ""),
        "token_present": bool(hook.token),
        "signing_token_present": bool(hook.signing_token),
        "alert_status": hook.alert_status,
        "disabled_until": until,
        **hook.triggers,
    }
