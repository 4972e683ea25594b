"""`POST /webhooks/gitlab[/<hook>]`: records one sighting for each webhook, and answers 200 when it is on disk.

This is a plain ASGI endpoint because it must be fast: Starlette's request and response objects would cost more
than everything else here (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from receiver.body import ByteBudget, Disconnected, RequestRejected, Reservation, json_object, read
from receiver.guard import HookGuard
from reconciler.events import times
from reconciler.events.hook_tests import ExpectedTests
from reconciler.events.sighting import KEPT_HEADERS, Sighting
from reconciler.events.webhook_sighting import as_test, webhook_sighting
from reconciler.ledger.errors import ChangeFailed, LedgerUnavailable
from reconciler.ledger.ledger import Ledger

PATH = "/webhooks/gitlab"
MAX_WAITING = 10_000
"""How many webhooks may wait for their commit before more are rejected."""
STRANGERS_SHARE = 4
"""Bodies whose signature is not checked yet have a budget of their own: `receiver.max_pending_bytes` divided by this.
So senders without a valid token or signature can't block those with a token."""
PROVEN = "reconciler.proven"
"""The name of an extension in the ASGI scope: a function of the web server that is called when a request's headers
prove its sender. The web server then keeps the connection open, however many others arrive."""

_KEPT: dict[bytes, str] = {name.lower().encode(): name for name in KEPT_HEADERS}

_EMPTY = [(b"content-length", b"0")]
_ACCEPTED: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": _EMPTY}
_NO_BODY: dict[str, Any] = {"type": "http.response.body", "body": b""}

log = structlog.get_logger(__name__)


class WebhookEndpoint:
    """The ASGI endpoint. It adds every project that a webhook names to `project_ids`.

    A test webhook that arrives is removed from `expected_tests`.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        guards: Mapping[str, HookGuard],
        project_ids: dict[str, int],
        expected_tests: ExpectedTests,
        max_body: int,
        max_pending_bytes: int,
    ) -> None:
        self._ledger = ledger
        self._guards = guards
        self._project_ids = project_ids
        self._expected_tests = expected_tests
        self._max_body = max_body
        self._budget = ByteBudget(max_pending_bytes)
        self._shared_ids: set[str] = set()
        """The sources that sent different bodies with one id. Each is logged once."""
        self._strangers = ByteBudget(max(max_body, max_pending_bytes // STRANGERS_SHARE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reservation = Reservation(self._budget, self._strangers)
        try:
            sighting = await self._sighting(scope, receive, reservation)
            await self._record(sighting)
        except RequestRejected as rejection:
            await _reject(scope, send, rejection)
        except Disconnected:
            return
        else:
            await send(_ACCEPTED)
            await send(_NO_BODY)
        finally:
            reservation.release()

    async def _sighting(self, scope: Scope, receive: Receive, reservation: Reservation) -> Sighting:
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
        if guard.is_proven(headers):
            reservation.mark_proven()
            scope.get("extensions", {}).get(PROVEN, _ignore)()
        declared = headers.get(b"content-length")
        body = await read(receive, declared=declared, limit=self._max_body, reservation=reservation)
        rejection = guard.rejection_by_body(headers, body)
        if rejection is not None:
            raise RequestRejected(401, rejection)
        reservation.mark_proven()
        parsed, text = json_object(body)
        return self._read(guard, headers, parsed, text)

    def _guard(self, path: str) -> HookGuard:
        name = path.removeprefix(PATH).strip("/") or "default"
        guard = self._guards.get(name)
        if guard is None:
            known = ", ".join(self._guards)
            raise RequestRejected(
                404, f"there is no hook named {name!r} in receiver.hooks: the URL must end with one of {known}"
            )
        return guard

    def _read(self, guard: HookGuard, headers: dict[bytes, bytes], body: dict[str, Any], text: str) -> Sighting:
        kept = {name: headers[raw].decode("latin-1") for raw, name in _KEPT.items() if raw in headers}
        # System hooks have bodies of their own, so they count as a source of their own.
        prefix = "system_hook" if kept.get("X-Gitlab-Event") == "System Hook" else "webhook"
        sighting = webhook_sighting(
            body,
            payload=text,
            source=f"{prefix}:{guard.source}",
            source_id=kept.get("Idempotency-Key"),
            event_uuid=kept.get("X-Gitlab-Event-UUID"),
            seen_at=times.now(),
            headers=kept,
            project_ids=self._project_ids,
        )
        about = sighting.summary
        if about.project_id is not None and about.project_path is not None:
            self._project_ids[about.project_path] = about.project_id
        if not self._expected_tests.take(guard.source, body):
            return sighting
        log.info("test webhook received", project=about.project_path)
        return as_test(sighting)

    async def _record(self, sighting: Sighting) -> None:
        if self._ledger.waiting_sightings >= MAX_WAITING:
            raise RequestRejected(503, "too many webhooks are waiting for the ledger; try again", retry_after_s=5)
        try:
            outcome = await self._ledger.record([sighting])
        except LedgerUnavailable as error:
            raise RequestRejected(503, f"the ledger can't be written: {error}", retry_after_s=30) from error
        except ChangeFailed as error:  # logged by the writer; GitLab's hook log will bring it again
            raise RequestRejected(
                500, "this webhook can't be recorded because of a bug in this program; see its log"
            ) from error
        recorded = outcome.recorded[0]
        if recorded.shares_id and sighting.source not in self._shared_ids:
            self._shared_ids.add(sighting.source)
            log.warning(
                "different webhooks share one Idempotency-Key: all are recorded; check whether a proxy sets it",
                source=sighting.source,
                delivery=sighting.source_id,
            )
        log.debug("webhook recorded", event_id=recorded.event_id, new=recorded.new_event, delivery=sighting.source_id)


def _ignore() -> None:
    """Stands in where the web server has no such extension."""


def _is_json(content_type: bytes) -> bool:
    media_type = content_type.split(b";", 1)[0].strip().lower()
    return media_type == b"application/json"


async def _reject(scope: Scope, send: Send, rejection: RequestRejected) -> None:
    log.warning("webhook rejected", status=rejection.status, why=rejection.why, path=scope["path"])
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
