"""Builds the messages that destinations get: GitLab's body, a transform's result, or a CloudEvent, with a stable id.

Sources: the Standard Webhooks specification (webhook-id, webhook-timestamp), CloudEvents 1.0 core and its JSON
format, HTTP binding in structured mode.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import orjson

from reconciler import __version__
from reconciler.config.destinations import Destination
from reconciler.events.fields import parsed
from reconciler.events.sighting import Recovery
from reconciler.events.times import Millis
from reconciler.forwarding.chat.presets import ChatMessage
from reconciler.forwarding.filters import facts
from reconciler.forwarding.jail import Jail, TransformFailed
from reconciler.forwarding.message import Message
from reconciler.forwarding.transform import Transformer, make_transform
from reconciler.ledger.queue.deliveries import Outgoing, Ready

FIELDS_LENGTH = 1024
"""The longest list of fields in a header, in characters."""

USER_AGENT = f"gitlab-reconciler/{__version__}"


class Formatter:
    """Builds a destination's messages. `event_id` gives an event its public id (see `ledger.storage.ids`).

    It may own a process and a thread. Call `close` to end them.
    """

    def __init__(self, destination: Destination, *, event_id: Callable[[int], str], gitlab_url: str) -> None:
        self._format = destination.format
        self._is_chat = destination.chat is not None
        self._transform = _transformer(destination)
        self._content_type = destination.transform.content_type if destination.transform else "application/json"
        self._event_id = event_id
        self._gitlab_url = gitlab_url.rstrip("/")
        jailed = isinstance(self._transform, Jail)
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="transform") if jailed else None

    def close(self) -> None:
        """Cancel the transforms in flight, and end the process and the thread."""
        if self._transform is not None:
            self._transform.close()
        if self._beside is not None:
            self._beside.shutdown(wait=False, cancel_futures=True)

    async def message_async(self, one: Ready, *, now: Millis) -> Message:
        """The message for the next attempt at a delivery, without blocking the event loop while a transform runs."""
        queued = one.queued
        write = partial(
            self.message, one.event, attempt=queued.attempts + 1, replays=queued.replays, now=now, lane=queued.lane
        )
        if self._beside is None:
            return write()
        return await asyncio.get_running_loop().run_in_executor(self._beside, write)

    def message(self, event: Outgoing, *, attempt: int, replays: int = 0, now: Millis, lane: str = "") -> Message:
        """The message for one attempt to deliver one event.

        Raises TransformFailed if the transform fails for this event.
        """
        event_id = self._event_id(event.event_id)
        headers = {"Content-Type": self._content_type}
        body = self._body(event, event_id)
        if self._format == "cloudevents":
            headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
            body = self._cloud_event(event, event_id, body)
        elif self._transform is None:
            headers |= event.headers
        elif self._is_chat:  # where GitLab is, and how it delivered, is nobody's business there
            headers |= {name: value for name, value in event.headers.items() if name == "X-Reconciler-Test"}
        else:  # GitLab's Content-Type is not the transformed body's
            headers |= {name: value for name, value in event.headers.items() if name != "Content-Type"}
        headers |= {
            "User-Agent": USER_AGENT,
            "Idempotency-Key": event_id,
            "webhook-id": event_id,
            "webhook-timestamp": str(now // 1000),
            "X-Reconciler-Source": event.source,
            "X-Reconciler-Attempt": str(attempt),
            **({"X-Reconciler-Replay": str(replays)} if replays else {}),
            **_recovery_headers(event.recovery),
        }
        about = event.summary
        return Message(
            id=event_id,
            project=str(about.project_id or 0),
            about={
                "project_id": str(about.project_id or 0),
                "project_path": about.project_path or "",
                "kind": about.kind,
                "action": about.action or "",
            },
            headers=headers,
            body=body,
            sent_at=now,
            lane=lane,
            event=event,
        )

    def _body(self, event: Outgoing, event_id: str) -> bytes:
        if self._transform is None:
            return event.payload.encode()
        known = facts(event.summary, event.source) | {"id": event_id, "happened_at": event.happened_at}
        try:
            return self._transform(known, event.payload)
        except (TransformFailed, OSError):  # OSError: no process could be started, which is temporary
            raise
        except (
            Exception
        ) as error:  # for example a body too deep: it would fail every time, and must not block its lane
            raise TransformFailed(f"{type(error).__name__}: {error}"[:1000]) from error

    def _cloud_event(self, event: Outgoing, event_id: str, data: bytes) -> bytes:
        about = event.summary
        project = about.project_path or (f"projects/{about.project_id}" if about.project_id else "")
        kind = about.kind if about.action is None else f"{about.kind}.{about.action}"
        if self._transform is not None:
            _must_be_json(data)
        envelope: dict[str, Any] = {
            "specversion": "1.0",
            "id": event_id,
            "source": f"{self._gitlab_url}/{project}".rstrip("/"),
            "type": "com.gitlab." + kind.replace(" ", "_"),
            "time": event.happened_at,
            "datacontenttype": "application/json",
            "reconcilersource": event.source,
            "data": orjson.Fragment(data),
        }
        if "X-Gitlab-Event" in event.headers:
            envelope["gitlabevent"] = event.headers["X-Gitlab-Event"]
        if event.recovery is not None:
            envelope["reconstructed"] = event.recovery.by == "api"
            if event.recovery.unknown:
                envelope["unknownfields"] = ",".join(event.recovery.unknown)
            if event.recovery.redacted:
                envelope["redactedfields"] = ",".join(event.recovery.redacted)
        if about.project_id is not None:
            envelope["gitlabprojectid"] = str(about.project_id)
        return orjson.dumps(envelope)


def _transformer(destination: Destination) -> Transformer | None:
    if destination.chat is not None:
        return ChatMessage(destination.chat)
    return make_transform(destination.transform) if destination.transform else None


def _recovery_headers(recovery: Recovery | None) -> dict[str, str]:
    """How the body was recovered. Long lists of fields are cut in headers; the envelope has the full lists."""
    if recovery is None:
        return {}
    headers: dict[str, str] = {"X-Reconciler-Recovered": recovery.by}
    if recovery.by == "api":
        headers["X-Reconciler-Reconstructed"] = "true"
    for name, fields in (("Unknown", recovery.unknown), ("Redacted", recovery.redacted)):
        if fields:
            headers[f"X-Reconciler-{name}"] = ",".join(fields)[:FIELDS_LENGTH].encode("ascii", "replace").decode()
    return headers


def _must_be_json(data: bytes) -> None:
    try:
        parsed(data)
    except ValueError as error:
        raise TransformFailed(f"its result is not JSON: {error}") from None
