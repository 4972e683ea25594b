"""`POST /webhooks/gitlab[/<hook>]`: one delivery in, one sighting recorded, 200 when it is on disk.

A plain ASGI endpoint: on the path that must be fastest, Starlette's request and response objects cost more
than all of our own work (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from receiver.body import Disconnected, Held, Refused, Room, json_object, read
from receiver.guard import Guard
from reconciler.events import hook_tests, times
from reconciler.events.identify import as_test, webhook_sighting
from reconciler.events.sighting import KEPT_HEADERS, Sighting
from reconciler.ledger.errors import ChangeFailed, LedgerUnavailable
from reconciler.ledger.intake.writer import Writer

PATH = "/webhooks/gitlab"
MAX_WAITING = 10_000
"""How many deliveries may wait for their commit before more are turned away."""
STRANGERS_SHARE = 4
"""`receiver.max_pending_bytes` divided by this is set aside, on top of it, for bodies whose signature is not checked
yet: strangers must not crowd out senders who show a token."""
PROVEN = "reconciler.proven"
"""The scope's extension, a function of the web server's, to tell it that a request's headers prove who sends it: it
then leaves it the time to send its body, whoever else comes."""

_KEPT: dict[bytes, str] = {name.lower().encode(): name for name in KEPT_HEADERS}

_EMPTY = [(b"content-length", b"0")]
_ACCEPTED: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": _EMPTY}
_NO_BODY: dict[str, Any] = {"type": "http.response.body", "body": b""}

log = structlog.get_logger(__name__)


class WebhookEndpoint:
    """The ASGI endpoint. `project_ids` is kept up to date with every project that a delivery names.

    A test that arrives is taken out of `expected_tests`.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        guards: Mapping[str, Guard],
        project_ids: dict[str, int],
        expected_tests: set[hook_tests.Expected],
        max_body: int,
        max_pending_bytes: int,
    ) -> None:
        self._writer = writer
        self._guards = guards
        self._project_ids = project_ids
        self._expected_tests = expected_tests
        self._max_body = max_body
        self._room = Room(max_pending_bytes)
        self._shared_ids: set[str] = set()
        """The sources that told different bodies under one id, as the log has it."""
        self._strangers = Room(max(max_body, max_pending_bytes // STRANGERS_SHARE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held = Held(self._room, self._strangers)
        try:
            sighting = await self._sighting(scope, receive, held)
            await self._record(sighting)
        except Refused as refused:
            await _refuse(scope, send, refused)
        except Disconnected:
            return
        else:
            await send(_ACCEPTED)
            await send(_NO_BODY)
        finally:
            held.give_back()

    async def _sighting(self, scope: Scope, receive: Receive, held: Held) -> Sighting:
        guard = self._guard(scope["path"])
        if scope["method"] != "POST":
            raise Refused(405, "a webhook is delivered by POST")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not _is_json(headers.get(b"content-type", b"")):
            raise Refused(415, "a webhook's Content-Type is application/json: set no other in a template or a proxy")
        if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            raise Refused(415, "the body is packed (Content-Encoding): GitLab packs none, so nothing on the way may")
        refusal = guard.refusal_by_headers(headers)
        if refusal is not None:
            raise Refused(401, refusal)
        if guard.is_proven(headers):
            held.prove()
            scope.get("extensions", {}).get(PROVEN, _unheard)()
        declared = headers.get(b"content-length")
        body = await read(receive, declared=declared, limit=self._max_body, held=held)
        refusal = guard.refusal_by_body(headers, body)
        if refusal is not None:
            raise Refused(401, refusal)
        held.prove()
        parsed, text = json_object(body)
        return self._read(guard, headers, parsed, text)

    def _guard(self, path: str) -> Guard:
        name = path.removeprefix(PATH).strip("/") or "default"
        guard = self._guards.get(name)
        if guard is None:
            known = ", ".join(self._guards)
            raise Refused(404, f"no hook named {name!r} in receiver.hooks: the URL's end is one of {known}")
        return guard

    def _read(self, guard: Guard, headers: dict[bytes, bytes], body: dict[str, Any], text: str) -> Sighting:
        kept = {name: headers[raw].decode("latin-1") for raw, name in _KEPT.items() if raw in headers}
        # A system hook tells an instance's events with bodies of its own: another teller than the project's.
        teller = "system_hook" if kept.get("X-Gitlab-Event") == "System Hook" else "webhook"
        sighting = webhook_sighting(
            body,
            payload=text,
            source=f"{teller}:{guard.source}",
            source_id=kept.get("Idempotency-Key"),
            event_uuid=kept.get("X-Gitlab-Event-UUID"),
            seen_at=times.now(),
            headers=kept,
            project_ids=self._project_ids,
        )
        about = sighting.summary
        if about.project_id is not None and about.project_path is not None:
            self._project_ids[about.project_path] = about.project_id
        test = hook_tests.find_expected(self._expected_tests, guard.source, body)
        if test is None:
            return sighting
        self._expected_tests.discard(test)
        log.info("a test delivery, asked for to switch the webhook on again", project=about.project_path)
        return as_test(sighting)

    async def _record(self, sighting: Sighting) -> None:
        if self._writer.waiting_sightings >= MAX_WAITING:
            raise Refused(503, "too many deliveries wait for the ledger; try again", retry_after_s=5)
        try:
            outcome = await self._writer.record([sighting])
        except LedgerUnavailable as error:
            raise Refused(503, f"the ledger can't be written: {error}", retry_after_s=30) from error
        except ChangeFailed as error:  # the writer has logged it; GitLab's log of the delivery brings it again
            raise Refused(
                500, "this delivery can't be recorded: a mistake in this program; its log says more"
            ) from error
        recorded = outcome.recorded[0]
        if recorded.shares_id and sighting.source not in self._shared_ids:
            self._shared_ids.add(sighting.source)
            log.warning(
                "different deliveries come under one Idempotency-Key: each is recorded; is it set on the way?",
                source=sighting.source,
                delivery=sighting.source_id,
            )
        log.debug("recorded", event_id=recorded.event_id, new=recorded.new_event, delivery=sighting.source_id)


def _unheard() -> None:
    """Where the web server does not ask for it."""


def _is_json(content_type: bytes) -> bool:
    media_type = content_type.split(b";", 1)[0].strip().lower()
    return media_type == b"application/json"


async def _refuse(scope: Scope, send: Send, refused: Refused) -> None:
    log.warning("a delivery was refused", status=refused.status, why=refused.why, path=scope["path"])
    words = refused.why.encode("utf-8", "replace") + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(words)).encode()),
    ]
    if refused.status == 405:
        headers.append((b"allow", b"POST"))
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", str(refused.retry_after_s).encode()))
    if refused.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": words if scope["method"] != "HEAD" else b""})
