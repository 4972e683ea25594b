"""Batches over HTTP: several events in one request, as CloudEvents' JSON batch, a JSON array or lines of JSON.

Source: CloudEvents 1.0 JSON format, section 4 (batches).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from reconciler.config.destinations import Batch, Destination
from reconciler.config.mistakes import Misplaced
from reconciler.events.fields import parsed
from reconciler.forwarding.kinds.file import line
from reconciler.forwarding.message import DeliveryRejected, Message

BatchFormat = Literal["cloudevents", "json", "ndjson"]
CONTENT_TYPES: dict[BatchFormat, str] = {
    "cloudevents": "application/cloudevents-batch+json; charset=utf-8",
    "json": "application/json",
    "ndjson": "application/x-ndjson",
}
KEPT_HEADERS = ("User-Agent", "X-Reconciler-Test")
"""The first event's headers that hold for the whole batch."""


class HttpBatch(Batch):
    """Several events in one request."""

    format: BatchFormat | None = Field(
        None,
        description="`cloudevents`: CloudEvents' JSON batch format. `json`: a JSON array. `ndjson`: a line of JSON "
        "for each event. Default: `cloudevents` if the destination's `format` is that, else `json`.",
    )


def batch_format(batch: HttpBatch, destination: Destination) -> BatchFormat:
    """The format of a destination's batches. Raises Misplaced if its events don't fit in it."""
    wanted = batch.format or ("cloudevents" if destination.format == "cloudevents" else "json")
    if wanted == "cloudevents" and destination.format != "cloudevents":
        what = "`cloudevents` needs `format: cloudevents` for the destination, too"
        raise Misplaced((("batch", "format"), what, None))
    made = destination.transform
    if made is not None and not _is_json(made.content_type):
        what = f"is {made.content_type}, but a batch is JSON: a template has to make application/json"
        raise Misplaced((("transform", "content_type"), what, None))
    return wanted


def batched(messages: Sequence[Message], wanted: BatchFormat, *, unchecked: bool) -> Message:
    """One message with the bodies of all, in their order.

    Its id follows from theirs: it is the same if the same batch is sent again. `unchecked` says that the bodies may
    not be JSON, because a template made them.

    Raises DeliveryRejected if a body is not JSON.
    """
    if unchecked:
        for one in messages:
            _require_json(one)
    if wanted == "ndjson":
        body = b"".join(line(one.body) for one in messages)
    else:
        body = b"[" + b",".join(one.body for one in messages) + b"]"
    batch_id = "batch_" + hashlib.sha256("\n".join(one.id for one in messages).encode()).hexdigest()[:32]
    first, sent_at = messages[0], max(one.sent_at for one in messages)
    headers = {
        "Content-Type": CONTENT_TYPES[wanted],
        **{name: first.headers[name] for name in KEPT_HEADERS if name in first.headers},
        "Idempotency-Key": batch_id,
        "webhook-id": batch_id,
        "webhook-timestamp": str(sent_at // 1000),
        "X-Reconciler-Batch": str(len(messages)),
    }
    return Message(batch_id, first.project, {}, headers, body, sent_at)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _require_json(message: Message) -> None:
    try:
        parsed(message.body.decode())
    except (ValueError, RecursionError) as error:
        raise DeliveryRejected(f"the template's result is not JSON, so it can't be in a batch: {error}") from None
