"""What a destination is sent: GitLab's own body, or a CloudEvent; with a stable id, and signed where asked.

Sources: the Standard Webhooks specification (webhook-id, webhook-timestamp, webhook-signature), CloudEvents 1.0
core and its JSON format, HTTP binding in structured mode.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson
from standardwebhooks import Webhook

from reconciler import __version__
from reconciler.config.models import Destination
from reconciler.events.sighting import Recovery
from reconciler.events.times import Millis
from reconciler.ledger.queue import Outgoing

FIELDS_LENGTH = 1024
"""Of a list of fields in a header, in characters."""

USER_AGENT = f"gitlab-reconciler/{__version__}"


class Message(msgspec.Struct, frozen=True):
    """An HTTP request's headers and body."""

    headers: dict[str, str]
    body: bytes


class Formatter:
    """Writes a destination's messages. `ledger_id` makes event ids unique beyond this ledger."""

    def __init__(self, destination: Destination, *, ledger_id: str, gitlab_url: str) -> None:
        self._format = destination.format
        self._own_headers = {name: value.get_secret_value() for name, value in destination.headers.items()}
        self._signer = Webhook(destination.secret.get_secret_value()) if destination.secret else None
        self._ledger_id = ledger_id
        self._gitlab_url = gitlab_url.rstrip("/")

    def message(self, event: Outgoing, *, attempt: int, now: Millis) -> Message:
        """The request for one attempt at one event."""
        event_id = f"evt_{self._ledger_id}_{event.event_id}"
        if self._format == "cloudevents":
            headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
            body = self._cloud_event(event, event_id)
        else:
            headers = {"Content-Type": "application/json", **event.headers}
            body = event.payload.encode()
        headers |= {
            "User-Agent": USER_AGENT,
            "Idempotency-Key": event_id,
            "webhook-id": event_id,
            "webhook-timestamp": str(now // 1000),
            "X-Reconciler-Source": event.source,
            "X-Reconciler-Attempt": str(attempt),
            **_recovery_headers(event.recovery),
        }
        if self._signer is not None:
            signed_at = datetime.fromtimestamp(now // 1000, tz=UTC)
            headers["webhook-signature"] = self._signer.sign(event_id, signed_at, body.decode())
        return Message(_overridden(headers, self._own_headers), body)

    def _cloud_event(self, event: Outgoing, event_id: str) -> bytes:
        project = event.project_path or (f"projects/{event.project_id}" if event.project_id else "")
        kind = event.kind if event.action is None else f"{event.kind}.{event.action}"
        envelope: dict[str, Any] = {
            "specversion": "1.0",
            "id": event_id,
            "source": f"{self._gitlab_url}/{project}".rstrip("/"),
            "type": "com.gitlab." + kind.replace(" ", "_"),
            "time": event.happened_at,
            "datacontenttype": "application/json",
            "reconcilersource": event.source,
            "data": orjson.Fragment(event.payload),
        }
        if "X-Gitlab-Event" in event.headers:
            envelope["gitlabevent"] = event.headers["X-Gitlab-Event"]
        if event.recovery is not None:
            envelope["reconstructed"] = event.recovery.by == "api"
            if event.recovery.unknown:
                envelope["unknownfields"] = ",".join(event.recovery.unknown)
            if event.recovery.redacted:
                envelope["redactedfields"] = ",".join(event.recovery.redacted)
        if event.project_id is not None:
            envelope["gitlabprojectid"] = str(event.project_id)
        return orjson.dumps(envelope)


def _recovery_headers(recovery: Recovery | None) -> dict[str, str]:
    """How a body was come by that no webhook brought; long lists of fields are cut, the envelope has them whole."""
    if recovery is None:
        return {}
    headers: dict[str, str] = {"X-Reconciler-Recovered": recovery.by}
    if recovery.by == "api":
        headers["X-Reconciler-Reconstructed"] = "true"
    for name, fields in (("Unknown", recovery.unknown), ("Redacted", recovery.redacted)):
        if fields:
            headers[f"X-Reconciler-{name}"] = ",".join(fields)[:FIELDS_LENGTH].encode("ascii", "replace").decode()
    return headers


def _overridden(headers: dict[str, str], own: dict[str, str]) -> dict[str, str]:
    """The configured headers win, whatever their capitals."""
    names = {name.lower() for name in own}
    return {name: value for name, value in headers.items() if name.lower() not in names} | own
