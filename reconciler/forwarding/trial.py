"""A test event that a person sends to a destination. It is not in the ledger."""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import Any

import msgspec
import orjson

from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.sighting import Summary
from reconciler.events.times import Millis
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.jail import TransformFailed
from reconciler.forwarding.kind import Kind, attempt, attempt_batch
from reconciler.forwarding.message import Answer, Message
from reconciler.forwarding.rendering import Rendered, rendered
from reconciler.ledger.queue.deliveries import Outgoing

TEST = "reconciler_test"
"""Its kind and its `object_kind`; GitLab uses no such kind."""
TEXT = "A test event from gitlab-reconciler: nothing happened in GitLab."


class NotSent(Exception):
    """Nothing can be sent to this destination."""


class Trial(msgspec.Struct, frozen=True):
    """A test event that was sent: its id, what was sent, and the answer."""

    id: str
    request: Rendered
    answer: Answer

    def plain(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "id": self.id,
            "to": self.request.to,
            "accepted": self.answer.accepted,
            "status": self.answer.status,
            "error": self.answer.error,
            "response": self.answer.response,
            "request": self.request.plain(),
        }


async def try_out(destination: Destination, *, gitlab_url: str) -> Trial:
    """Send one test event once, regardless of filter, rate limit and state.

    Raises NotSent if its consumers fetch the events, TransformFailed if the transform can't be applied to it.
    """
    if destination.is_pulled:
        raise NotSent(
            f"nothing is sent to {destination.name}: its consumers fetch the events; `destinations test "
            f"{destination.name} --bodies` shows what they get"
        )
    kind: Kind = find_kind(destination.kind)(destination)
    try:
        message = trial_message(destination, gitlab_url=gitlab_url, now=times.now())
        timeout_s = destination.timeout / 1000
        if destination.batching is None:
            answer = await attempt(kind, message, timeout_s=timeout_s)
        else:
            [answer] = await attempt_batch(kind, [message], timeout_s=timeout_s)
        return Trial(message.id, rendered(kind, message), answer)
    except TransformFailed as error:
        raise TransformFailed(
            f"the transform can't be applied to a test event, which is not one of GitLab's: {error}"
        ) from error
    finally:
        await kind.close()


def trial_message(destination: Destination, *, gitlab_url: str, now: Millis) -> Message:
    """A test event in a destination's format, signed like any other. Its id belongs to no event.

    Raises TransformFailed.
    """
    at = times.iso(now)
    event = Outgoing(
        event_id=0,
        happened_at=at,
        source="reconciler",
        sighting_id=0,
        recovery=None,
        headers={"Content-Type": "application/json", "X-Reconciler-Test": "true"},
        payload=orjson.dumps({"object_kind": TEST, "at": at, "text": TEXT}).decode(),
        summary=Summary(kind=TEST, action="test", author="gitlab-reconciler", title=TEXT),
        recorded_at=at,
        seen_at=at,
    )
    test_id = f"test_{secrets.token_hex(12)}"
    with closing(Formatter(destination, event_id=lambda _: test_id, gitlab_url=gitlab_url)) as formatter:
        return formatter.message(event, attempt=1, now=now)
