"""The receiver's routes. No route redirects: GitLab takes a 3xx for success and would deliver no more."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.endpoint import PATH, WebhookEndpoint
from receiver.guard import Guard
from receiver.ready import Shared
from reconciler.config.models import Receiver
from reconciler.events.hook_tests import Expected
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.intake.writer import Writer
from reconciler.ledger.storage.connection import touch

log = structlog.get_logger(__name__)


def receiver_app(
    config: Receiver, *, writer: Writer, project_ids: dict[str, int], expected_tests: set[Expected] | None = None
) -> ASGIApp:
    """The ASGI app that GitLab talks to. `expected_tests` are the tests of webhooks that GitLab was asked for."""
    guards: Mapping[str, Guard] = {hook.name: Guard(hook) for hook in config.hooks}
    webhooks = WebhookEndpoint(
        writer=writer,
        guards=guards,
        project_ids=project_ids,
        expected_tests=set() if expected_tests is None else expected_tests,
        max_body=config.max_body,
        max_pending_bytes=config.max_pending_bytes,
    )

    prove = Shared(lambda: writer.run(touch))

    async def healthz(_: Request) -> Response:
        """The process is alive."""
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        """The ledger can be written, proven by a commit not a second ago. Where a part of its file is damaged, that
        is said, and still what can be recorded is: nobody is to keep GitLab's deliveries away from here for it.
        """
        try:
            await prove()
        except LedgerError as error:
            return PlainTextResponse(f"the ledger can't be written: {error}\n", 503, {"Retry-After": "30"})
        damage = "" if writer.damage is None else f", but damaged: {writer.damage}"
        return PlainTextResponse(f"ready{damage}\n")

    async def elsewhere(request: Request) -> Response:
        """Whoever posts here has a wrong URL, and will be asked why nothing comes."""
        path = request.url.path
        hooks = " or ".join(PATH if name == "default" else f"{PATH}/{name}" for name in guards)
        why = f"there is nothing at {path[:200]}: webhooks are posted to {hooks}"
        if request.method == "POST":
            log.warning("a delivery was refused", status=404, why=why, path=path)
        return PlainTextResponse(f"{why}\n", 404)

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Mount("/", app=request_response(elsewhere))]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return _Door(webhooks, app.router)


def waiting_app(why: str) -> ASGIApp:
    """The ASGI app of a receiver that can't record yet: 503 for all but `/healthz`."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def elsewhere(_: Request) -> Response:
        return PlainTextResponse(f"{why}\n", 503, {"Retry-After": "30"})

    router = Router([Route("/healthz", healthz), Mount("/", app=request_response(elsewhere))])
    router.redirect_slashes = False
    return router


class _Door:
    """Sends webhooks straight to their endpoint, and everything else to the router."""

    def __init__(self, webhooks: WebhookEndpoint, router: Router) -> None:
        self._webhooks = webhooks
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope["type"] == "http" and (path == PATH or path.startswith(PATH + "/")):
            await self._webhooks(scope, receive, send)
        else:
            await self._router(scope, receive, send)
