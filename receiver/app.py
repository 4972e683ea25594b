"""The receiver's routes. None redirects: GitLab counts a 3xx as success, and the webhook would be lost."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.endpoint import PATH, WebhookEndpoint
from receiver.guard import HookGuard
from receiver.ready import SharedCheck
from reconciler.config.models import Receiver
from reconciler.events.hook_tests import ExpectedTests
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger

log = structlog.get_logger(__name__)


def receiver_app(
    config: Receiver, *, ledger: Ledger, project_ids: dict[str, int], expected_tests: ExpectedTests | None = None
) -> ASGIApp:
    """The ASGI app that GitLab posts to. `expected_tests` are the test webhooks that GitLab was asked to send."""
    guards: Mapping[str, HookGuard] = {hook.name: HookGuard(hook) for hook in config.hooks}
    webhooks = WebhookEndpoint(
        ledger=ledger,
        guards=guards,
        project_ids=project_ids,
        expected_tests=ExpectedTests() if expected_tests is None else expected_tests,
        max_body=config.max_body,
        max_pending_bytes=config.max_pending_bytes,
    )

    prove = SharedCheck(ledger.check_writable)

    async def healthz(_: Request) -> Response:
        """The process is alive."""
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        """The ledger can be written: a commit less than a second ago proves it. A damaged ledger is
        reported but still ready, so that webhooks keep arriving: all that can be recorded is recorded.
        """
        try:
            await prove()
        except LedgerError as error:
            return PlainTextResponse(f"the ledger can't be written: {error}\n", 503, {"Retry-After": "30"})
        damage = "" if ledger.damage is None else f", but damaged: {ledger.damage}"
        return PlainTextResponse(f"ready{damage}\n")

    async def elsewhere(request: Request) -> Response:
        """Any other path. A POST to one is logged: somebody has configured a wrong URL."""
        path = request.url.path
        hooks = " or ".join(PATH if name == "default" else f"{PATH}/{name}" for name in guards)
        why = f"there is nothing at {path[:200]}: post webhooks to {hooks}"
        if request.method == "POST":
            log.warning("webhook rejected", status=404, why=why, path=path)
        return PlainTextResponse(f"{why}\n", 404)

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Mount("/", app=request_response(elsewhere))]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return _Dispatcher(webhooks, app.router)


def waiting_app(why: str) -> ASGIApp:
    """The ASGI app of a receiver that can't record yet. It answers 503 to everything but `/healthz`."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def elsewhere(_: Request) -> Response:
        return PlainTextResponse(f"{why}\n", 503, {"Retry-After": "30"})

    router = Router([Route("/healthz", healthz), Mount("/", app=request_response(elsewhere))])
    router.redirect_slashes = False
    return router


class _Dispatcher:
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
