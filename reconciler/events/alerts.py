"""The service's own alerts as events: they are recorded and delivered like any other."""

from __future__ import annotations

import hashlib
from typing import Literal

import orjson

from reconciler.events import times
from reconciler.events.sighting import ALERT, Identity, Precision, Sighting, Summary
from reconciler.events.times import Millis

SOURCE = "reconciler"


def alert_sighting(
    *, what: str, subject: str, state: Literal["opened", "over"], text: str, since: Millis, at: Millis
) -> Sighting:
    """The sighting of an alert that opened or is over. `text` is a sentence for people; chat systems show it as it
    is.
    """
    body = {
        "object_kind": ALERT,
        "alert": what,
        "state": state,
        "subject": subject,
        "since": times.iso(since),
        "at": times.iso(at),
        "text": text,
    }
    payload = orjson.dumps(body).decode()
    name = f"alert:{what}:{subject}:{times.iso(since)}:{state}"
    return Sighting(
        source=SOURCE,
        source_id=name,
        identity=Identity(name, at, Precision.UNIQUE_ID),
        summary=Summary(kind=ALERT, action=state, title=text[:200]),
        seen_at=at,
        payload=payload,
        payload_sha=hashlib.sha256(payload.encode()).hexdigest(),
        headers={"Content-Type": "application/json"},
    )
