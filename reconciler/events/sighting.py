"""The vocabulary that every room shares: what a sighting is, and what makes two of them one event."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from reconciler.events.times import DAY, HOUR, MINUTE, Millis

KEPT_HEADERS = (
    "Content-Type",
    "Idempotency-Key",
    "User-Agent",
    "X-Gitlab-Event",
    "X-Gitlab-Event-UUID",
    "X-Gitlab-Instance",
    "X-Gitlab-Webhook-UUID",
)
"""The headers of a delivery that reach the ledger. Everything else may hold a secret: tokens, signatures, custom
headers."""


HOOK_TEST = "hook_test"
"""The kind of a delivery that we made GitLab send, to switch a webhook on again: it tells of nothing that happened,
and goes to no destination."""

ALERT = "reconciler_alert"
"""The kind of what we ourselves have to say: it goes to the destinations that get alerts, and to no other."""

OWN_KINDS = (HOOK_TEST, ALERT)
"""What is in the ledger and did not happen in GitLab."""


class Precision(StrEnum):
    """How well a sighting knows when its event happened, and so how it may be paired.

    `tolerance` is how far apart two sightings of one event can be; `repeat_window` within what time
    byte-identical bodies from one source are the same event told twice (two hooks on one path, or GitLab
    sending a delivery again). Both follow docs/gitlab.md, "Webhook deliveries", and docs/gitlab.md, "Which webhook is
    which Events API record".
    """

    ONCE = "once"
    """The key holds an id that GitLab uses once: time plays no part."""
    STATED = "stated"
    """GitLab wrote the time of the change into the sighting."""
    RECEIVED = "received"
    """Only the time of receipt is known, as for a push. A record of the API will tell how often it happened."""
    ALONE = "alone"
    """As RECEIVED, but no record will ever tell: only what comes within a minute is taken for the same. Two
    hooks that each missed one of two alike must not make one event of them."""
    ESTIMATED = "estimated"
    """As RECEIVED, but read from GitLab's hook log of 7 days, where only neighbours tell about when it was sent."""
    GUESSED = "guessed"
    """As ESTIMATED, where identical bodies prove nothing and no record will tell how often it happened."""
    LOOSE = "loose"
    """As ALONE, and the thing can really happen twice within seconds with the same body (a feature flag
    switched on, off and on again), so that identical bodies from one source prove nothing."""

    @classmethod
    def _missing_(cls, value: object) -> Precision:
        """A word that this version does not know proves nothing."""
        return cls.LOOSE

    @property
    def tolerance(self) -> Millis:
        return _TOLERANCE[self]

    @property
    def repeat_window(self) -> Millis:
        return _REPEAT_WINDOW[self]


FOREVER = Millis(1 << 60)

_TOLERANCE = {
    Precision.ONCE: FOREVER,
    Precision.STATED: Millis(15 * MINUTE),
    Precision.RECEIVED: Millis(12 * HOUR),
    Precision.ESTIMATED: Millis(7 * DAY),
    Precision.GUESSED: Millis(7 * DAY),
    Precision.ALONE: MINUTE,
    Precision.LOOSE: MINUTE,
}
_REPEAT_WINDOW = {
    Precision.ONCE: FOREVER,
    Precision.STATED: FOREVER,
    Precision.RECEIVED: MINUTE,
    Precision.ESTIMATED: MINUTE,
    Precision.GUESSED: Millis(-1),
    Precision.ALONE: MINUTE,
    Precision.LOOSE: Millis(-1),
}


class Identity(msgspec.Struct, frozen=True):
    """What makes two sightings the same event: a key that every source can compute, and a time."""

    key: str
    happened_at: Millis
    precision: Precision


class Summary(msgspec.Struct, frozen=True):
    """What a person wants to see of an event in a list. All of it is optional but the kind."""

    kind: str
    action: str | None = None
    project_id: int | None = None
    project_path: str | None = None
    author: str | None = None
    title: str | None = None
    ref: str | None = None
    object: str | None = None


class Recovery(msgspec.Struct, frozen=True):
    """How a payload was come by that no webhook brought.

    `by`: "hook_log" is GitLab's own body, parsed, in which the fields at the paths `redacted` are blotted out;
    "api" is a body rebuilt in the webhook's shape, in which the fields at the paths `unknown` could not be known.
    """

    by: Literal["hook_log", "api"]
    unknown: list[str] = []
    redacted: list[str] = []


class Sighting(msgspec.Struct, frozen=True):
    """One report of an event, as one source saw it.

    `source` names where it comes from (`webhook:<hook>`, `project_events`), `source_id` is that source's own
    id for it: together they never occur twice. `payload` is the JSON text that destinations get: exactly as it
    came, or as `recovery` says; `raw` is then what the API told. `headers` holds only what may be kept and passed
    on (never a secret).
    """

    source: str
    source_id: str
    identity: Identity
    summary: Summary
    seen_at: Millis
    payload: str
    payload_sha: str
    headers: dict[str, str] = {}
    raw: str | None = None
    recovery: Recovery | None = None
