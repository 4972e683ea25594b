"""The receiver's routes. None redirects: GitLab counts a 3xx as success, and the webhook would be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.endpoint import PATH, Observer, WebhookEndpoint, named
from receiver.guard import HookGuard
from receiver.ready import SharedCheck
from reconciler.config.models import Receiver
from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.intake import Appender

PROOF_S = 4.0
"""A disk that has not written by then counts as hung."""

log = structlog.get_logger(__name__)


def receiver_app(
    config: Receiver, *, intake: Appender, observer: Observer, is_stopping: Callable[[], bool] = lambda: False
) -> ASGIApp:
    """The ASGI app that GitLab posts to. Once it `is_stopping`, it is not ready, though it still accepts webhooks."""
    guards: Mapping[str, HookGuard] = {hook.name: HookGuard(hook) for hook in config.hooks}
    webhooks = WebhookEndpoint(
        intake=intake,
        guards=guards,
        max_body=config.max_body,
        max_pending_bytes=config.max_pending_bytes,
        observer=observer,
    )

    check = SharedCheck(intake.check_writable)

    async def healthz(_: Request) -> Response:
        """The process is alive."""
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        """Webhooks can be written to disk: a commit within the last second has shown it."""
        if is_stopping():
            return PlainTextResponse("the receiver is stopping: webhooks are to go to another copy\n", 503)
        try:
            async with asyncio.timeout(PROOF_S):
                await check()
        except TimeoutError:
            why = f"a write has not ended within {PROOF_S:.0f} s: the disk hangs"
            return PlainTextResponse(f"webhooks can't be written to disk: {why}\n", 503, {"Retry-After": "30"})
        except IntakeUnavailable as error:
            return PlainTextResponse(f"webhooks can't be written to disk: {error}\n", 503, {"Retry-After": "30"})
        return PlainTextResponse("ready\n")

    async def elsewhere(request: Request) -> Response:
        """Any other path. A POST to one is logged: somebody has configured a wrong URL."""
        path = request.url.path
        hooks = named((PATH if name == "default" else f"{PATH}/{name}" for name in guards), " or ")
        why = f"there is nothing at {path[:200]}: post webhooks to {hooks}"
        if request.method == "POST":
            log.warning("webhook rejected", status=404, reason=why, path=path)
        return PlainTextResponse(f"{why}\n", 404)

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Mount("/", app=request_response(elsewhere))]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return _Dispatcher(webhooks, app.router)


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
