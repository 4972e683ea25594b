"""What a sighting is, and what makes two of them one event."""

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
"""The headers of a webhook that are stored. All others may hold a secret: tokens, signatures, custom headers."""


HOOK_TEST = "hook_test"
"""The kind of a test that we asked GitLab for, to enable a webhook again. It is no event of GitLab's and is delivered
to no destination."""

ALERT = "reconciler_alert"
"""The kind of the service's own alerts. They are delivered only to destinations that get alerts."""

OWN_KINDS = (HOOK_TEST, ALERT)
"""Kinds in the ledger that did not happen in GitLab."""


_FORMER_NAMES: dict[object, str] = {
    "once": "unique_id",
    "stated": "gitlab_time",
    "received": "received_time",
    "alone": "received_unverified",
    "loose": "received_repeatable",
    "estimated": "estimated_time",
    "guessed": "estimated_unverified",
}
"""What precisions are called in the rows of older versions: rewriting every row would take long, and help nobody."""


class Precision(StrEnum):
    """How well a sighting knows the time of its event. It decides how the sighting may be matched.

    `tolerance` is how far apart, in milliseconds, two sightings of one event can be. `repeat_window` is how far
    apart byte-identical bodies from one source may be and still report one event (two hooks on one path, or a
    delivery that GitLab sends again). Both follow docs/gitlab.md, "Webhook deliveries" and docs/gitlab.md, "Which
    webhook is which Events API record".

    An *unverified* time of receipt is one that no API record can confirm.
    """

    UNIQUE_ID = "unique_id"
    """The key holds an id that GitLab uses once. The time plays no part."""
    GITLAB_TIME = "gitlab_time"
    """GitLab wrote the time of the change into the sighting."""
    RECEIVED_TIME = "received_time"
    """Only the time of receipt is known, as for a push. An API record shows how often the event happened."""
    RECEIVED_UNVERIFIED = "received_unverified"
    """Like RECEIVED_TIME, but no API record shows how often it happened. Only sightings within a minute count as
    one event: two hooks that each missed one of two equal events must not turn them into one."""
    RECEIVED_REPEATABLE = "received_repeatable"
    """Like RECEIVED_UNVERIFIED, and the same event can happen again within seconds with the same body (a feature
    flag that is switched on, off and on again). So identical bodies from one source prove nothing."""
    ESTIMATED_TIME = "estimated_time"
    """Like RECEIVED_TIME, but read from GitLab's hook log of 7 days. The time is estimated from the deliveries
    before and after it."""
    ESTIMATED_UNVERIFIED = "estimated_unverified"
    """Like ESTIMATED_TIME, but identical bodies prove nothing and no API record shows how often it happened."""

    @classmethod
    def _missing_(cls, value: object) -> Precision:
        """Read a value of an older version by its new name; treat any other as the precision that proves least."""
        return cls(_FORMER_NAMES[value]) if value in _FORMER_NAMES else cls.RECEIVED_REPEATABLE

    @property
    def tolerance(self) -> Millis:
        return _TOLERANCE[self]

    @property
    def repeat_window(self) -> Millis:
        return _REPEAT_WINDOW[self]


FOREVER = Millis(1 << 60)

_TOLERANCE = {
    Precision.UNIQUE_ID: FOREVER,
    Precision.GITLAB_TIME: Millis(15 * MINUTE),
    Precision.RECEIVED_TIME: Millis(12 * HOUR),
    Precision.ESTIMATED_TIME: Millis(7 * DAY),
    Precision.ESTIMATED_UNVERIFIED: Millis(7 * DAY),
    Precision.RECEIVED_UNVERIFIED: MINUTE,
    Precision.RECEIVED_REPEATABLE: MINUTE,
}
_REPEAT_WINDOW = {
    Precision.UNIQUE_ID: FOREVER,
    Precision.GITLAB_TIME: FOREVER,
    Precision.RECEIVED_TIME: MINUTE,
    Precision.ESTIMATED_TIME: MINUTE,
    Precision.ESTIMATED_UNVERIFIED: Millis(-1),
    Precision.RECEIVED_UNVERIFIED: MINUTE,
    Precision.RECEIVED_REPEATABLE: Millis(-1),
}


class Identity(msgspec.Struct, frozen=True):
    """What makes two sightings the same event: a key that every source computes alike, and a time."""

    key: str
    happened_at: Millis
    precision: Precision


class Summary(msgspec.Struct, frozen=True):
    """What lists show of an event. Everything but the kind is optional."""

    kind: str
    action: str | None = None
    project_id: int | None = None
    project_path: str | None = None
    author: str | None = None
    title: str | None = None
    ref: str | None = None
    object: str | None = None


class Recovery(msgspec.Struct, frozen=True):
    """How a payload was recovered that no webhook delivered.

    `by`: "hook_log" is GitLab's own body, parsed, in which GitLab redacted the fields at the paths `redacted`; "api"
    is a webhook payload rebuilt from the API, in which the fields at the paths `unknown` are not known.
    """

    by: Literal["hook_log", "api"]
    unknown: list[str] = []
    redacted: list[str] = []


class Sighting(msgspec.Struct, frozen=True):
    """One report of an event, as one source saw it.

    `source` is where it comes from (`webhook:<hook>`, `project_events`), `source_id` that source's id for it:
    together they are unique. `payload` is the JSON text that destinations get: as received, or as `recovery` says;
    `raw` is then the API's record. `headers` has only those that may be stored and passed on, never a secret.
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
