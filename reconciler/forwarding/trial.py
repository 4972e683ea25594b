"""A test event that a person sends to a destination. It is not in the ledger."""

from __future__ import annotations

import secrets
from contextlib import closing

import orjson

from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.sighting import Summary
from reconciler.events.times import Millis
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.message import Message
from reconciler.ledger.queue.deliveries import Outgoing

TEST = "reconciler_test"
"""Its kind and its `object_kind`; GitLab uses no such kind."""
TEXT = "A test event from gitlab-reconciler: nothing happened in GitLab."


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
    )
    test_id = f"test_{secrets.token_hex(12)}"
    with closing(Formatter(destination, event_id=lambda _: test_id, gitlab_url=gitlab_url)) as formatter:
        return formatter.message(event, attempt=1, now=now)
