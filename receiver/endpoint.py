"""`POST /webhooks/gitlab[/<hook>]`: appends each webhook to the intake, and answers 200 when it is on disk.

This is a plain ASGI endpoint because it must be fast: Starlette's request and response objects would cost more
than everything else here (docs/benchmarks.md).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import structlog
from starlette.types import Receive, Scope, Send

from receiver.body import ByteBudget, Disconnected, RequestRejected, Reservation, check_json_object, read
from receiver.guard import HookGuard
from reconciler.events import times
from reconciler.events.sighting import KEPT_HEADERS
from reconciler.ledger.errors import IntakeUnavailable
from reconciler.ledger.intake.intake import Appender, ReceivedWebhook

PATH = "/webhooks/gitlab"
MAX_HOOKS_NAMED = 5
"""At most this many hooks are named in an answer."""
MAX_WAITING = 10_000
"""How many webhooks may wait for their commit before more are rejected."""
UNAUTHENTICATED_SHARE = 4
"""Bodies whose signature is not checked yet have a budget of their own: `receiver.max_pending_bytes` divided by this.
So senders without a valid token or signature can't block those with a token."""
AUTHENTICATED = "reconciler.authenticated"
"""The name of an extension in the ASGI scope: a function of the web server that is called when a request's headers
authenticate its sender. The web server then keeps the connection open, however many others arrive."""

_KEPT: dict[bytes, str] = {name.lower().encode(): name for name in KEPT_HEADERS}

_EMPTY = [(b"content-length", b"0")]
_ACCEPTED: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": _EMPTY}
_NO_BODY: dict[str, Any] = {"type": "http.response.body", "body": b""}

log = structlog.get_logger(__name__)


class Observer(Protocol):
    """Counts webhooks."""

    def acknowledged(self, seconds: float) -> None:
        """A webhook was acknowledged this many seconds after its body was read."""

    def rejected(self, status: int) -> None:
        """A webhook was answered with this status."""


class WebhookEndpoint:
    """The ASGI endpoint."""

    def __init__(
        self,
        *,
        intake: Appender,
        guards: Mapping[str, HookGuard],
        max_body: int,
        max_pending_bytes: int,
        observer: Observer,
    ) -> None:
        self._intake = intake
        self._observer = observer
        self._guards = guards
        self._max_body = max_body
        self._budget = ByteBudget(max_pending_bytes)
        self._unauthenticated = ByteBudget(max(max_body, max_pending_bytes // UNAUTHENTICATED_SHARE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reservation = Reservation(self._budget, self._unauthenticated)
        try:
            webhook = await self._webhook(scope, receive, reservation)
            read_at = time.perf_counter()
            await self._append(webhook)
            self._observer.acknowledged(time.perf_counter() - read_at)
        except RequestRejected as rejection:
            self._observer.rejected(rejection.status)
            await _reject(scope, send, rejection)
        except Disconnected:
            return
        else:
            await send(_ACCEPTED)
            await send(_NO_BODY)
        finally:
            reservation.release()

    async def _webhook(self, scope: Scope, receive: Receive, reservation: Reservation) -> ReceivedWebhook:
        guard = self._guard(scope["path"])
        if scope["method"] != "POST":
            raise RequestRejected(405, "webhooks are sent with POST")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not _is_json(headers.get(b"content-type", b"")):
            raise RequestRejected(415, "the Content-Type must be application/json: check custom headers and proxies")
        if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            raise RequestRejected(415, "the body is compressed (Content-Encoding): no proxy may compress it")
        rejection = guard.rejection_by_headers(headers)
        if rejection is not None:
            raise RequestRejected(401, rejection)
        if guard.is_authenticated(headers):
            reservation.mark_authenticated()
            scope.get("extensions", {}).get(AUTHENTICATED, _ignore)()
        declared = headers.get(b"content-length")
        body = await read(receive, declared=declared, limit=self._max_body, reservation=reservation)
        rejection = guard.rejection_by_body(headers, body)
        if rejection is not None:
            raise RequestRejected(401, rejection)
        reservation.mark_authenticated()
        check_json_object(body)
        kept = {name: headers[raw].decode("latin-1") for raw, name in _KEPT.items() if raw in headers}
        return ReceivedWebhook(guard.source, times.now(), kept, body)

    def _guard(self, path: str) -> HookGuard:
        name = path.removeprefix(PATH).strip("/") or "default"
        guard = self._guards.get(name)
        if guard is None:
            known = named(self._guards)
            raise RequestRejected(
                404, f"there is no hook named {name!r} in receiver.hooks: the URL must end with one of {known}"
            )
        return guard

    async def _append(self, webhook: ReceivedWebhook) -> None:
        if self._intake.waiting >= MAX_WAITING:
            raise RequestRejected(503, "too many webhooks are waiting for the disk; try again", retry_after_s=5)
        try:
            await self._intake.append(webhook)
        except IntakeUnavailable as error:
            raise RequestRejected(503, f"the webhook can't be written to disk: {error}", retry_after_s=30) from error


def named(hooks: Iterable[str], between: str = ", ") -> str:
    """The first few hooks, for someone who has configured a wrong URL. Not all of them, because anyone can ask."""
    first = list(itertools.islice(hooks, MAX_HOOKS_NAMED + 1))
    return between.join(first[:MAX_HOOKS_NAMED]) + (f"{between}…" if len(first) > MAX_HOOKS_NAMED else "")


def _ignore() -> None:
    """Used if the web server has no such extension."""


def _is_json(content_type: bytes) -> bool:
    media_type = content_type.split(b";", 1)[0].strip().lower()
    return media_type == b"application/json"


async def _reject(scope: Scope, send: Send, rejection: RequestRejected) -> None:
    log.warning("webhook rejected", status=rejection.status, reason=rejection.why, path=scope["path"])
    words = rejection.why.encode("utf-8", "replace") + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(words)).encode()),
    ]
    if rejection.status == 405:
        headers.append((b"allow", b"POST"))
    if rejection.retry_after_s is not None:
        headers.append((b"retry-after", str(rejection.retry_after_s).encode()))
    if rejection.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": rejection.status, "headers": headers})
    await send({"type": "http.response.body", "body": words if scope["method"] != "HEAD" else b""})
