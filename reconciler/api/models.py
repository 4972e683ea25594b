"""The shapes of answers, for OpenAPI. They are those of the commands' `--json`.

Answers are not checked against them when they are sent: an odd value in the ledger must not hide all others. The
tests compare both.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base of all answers. Times are ISO 8601 in UTC, with milliseconds."""

    model_config = ConfigDict(extra="forbid")


class WrongParameter(Answer):
    """A parameter or a field that is wrong."""

    where: str = Field(description="Such as `query.limit` or `body.events.0`.")
    detail: str


class Problem(Answer):
    """An error (RFC 9457)."""

    title: str
    status: int
    detail: str
    errors: list[WrongParameter] | None = None


class Event(Answer):
    """An event in a list."""

    id: int
    happened_at: str
    recorded_at: str
    project_id: int | None
    project_path: str | None
    kind: str
    action: str | None
    author: str | None
    title: str | None
    ref: str | None
    sources: str = Field(description="Who reported it, separated by spaces.")


class Events(Answer):
    """A page of events, newest first."""

    events: list[Event]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


class Recovery(Answer):
    """How a payload was recovered that no webhook delivered."""

    by: str
    unknown: list[str]
    redacted: list[str]


class Sighting(Answer):
    """One report of the event, as one source saw it."""

    id: int
    source: str
    source_id: str | None
    key: str
    happened_at: str
    precision: str
    seen_at: str
    kind: str
    action: str | None
    project_path: str | None
    author: str | None
    title: str | None
    ref: str | None
    recovery: Recovery | None
    headers: dict[str, str]


class Delivery(Answer):
    """The delivery to one destination."""

    destination: str
    state: str
    attempts: int
    opened_at: str
    first_attempt_at: str | None
    next_attempt_at: str | None
    finished_at: str | None
    last_status: int | None
    last_error: str | None


class Attempt(Answer):
    """One attempt to deliver the event, as far as attempts are kept."""

    destination: str
    number: int
    started_at: str
    duration_ms: int
    status: int | None
    error_class: str | None
    error: str | None
    response: str | None


class WholeEvent(Answer):
    """An event with everything about it."""

    id: int
    kind: str
    project_id: int | None
    happened_at: str
    recorded_at: str
    sighting_id: int
    merged_into: int | None
    sightings: list[Sighting]
    deliveries: list[Delivery]
    attempts: list[Attempt]
    payload: Any = Field(description="The webhook payload; as a string if it is not valid JSON.")


class InTheWay(Answer):
    """An event that a destination does not accept, while others wait behind it."""

    destination: str
    event_id: int
    kind: str
    project: str | None
    failures: int
    since: str | None
    tried_at: str | None
    error: str | None
    behind: int


class DestinationStatus(Answer):
    """What is pending for a destination, and its state: up, down, paused, or not in the config."""

    name: str
    active: bool
    state: str
    breaker: str
    paused_at: str | None
    pending: int
    oldest_pending_at: str | None
    dead_letters: int
    last_error: str | None
    blocked_by: InTheWay | None
    delivered_by: str | None


class Destination(Answer):
    """A destination of the config, of the ledger, or of both. Fields of the ledger may be missing."""

    name: str
    kind: str | None
    type: str | None
    to: str | None
    state: str
    pending: int | None
    dead_letters: int | None
    active: bool | None = None
    breaker: str | None = None
    paused_at: str | None = None
    oldest_pending_at: str | None = None
    last_error: str | None = None
    blocked_by: InTheWay | None = None
    delivered_by: str | None = None


class Destinations(Answer):
    """All destinations, by name."""

    destinations: list[Destination]


class PulledEvent(Answer):
    """An event as a destination is sent it. `id` is the same whenever it is handed out again."""

    id: str
    happened_at: str
    project_id: int | None
    project_path: str | None
    kind: str
    action: str | None
    headers: dict[str, str] = Field(description="The headers with which `kind: http` would send it.")
    body: Any = Field(description="What it would send; as a string if it is not JSON.")


class Pulled(Answer):
    """The pending events that are next, in order."""

    events: list[PulledEvent]
    cursor: str = Field(description="Acknowledges these events: the `cursor` of the next request.")


class DeadLetter(Answer):
    """A delivery that failed and is not retried. `id` is the event's."""

    id: int
    destination: str
    happened_at: str
    project_path: str | None
    kind: str
    action: str | None
    title: str | None
    attempts: int
    dead_since: str | None
    last_status: int | None
    last_error: str | None


class DeadLetters(Answer):
    """A page of dead letters, newest event first."""

    dead_letters: list[DeadLetter]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


class Replayed(Answer):
    """How many deliveries are meant, by destination, and how many were queued."""

    destinations: dict[str, int]
    replayed: int


class Request(Answer):
    """What was sent. Secrets in headers are redacted."""

    to: str
    headers: dict[str, str]
    body: str
    error: str | None


class Trial(Answer):
    """A test event that was sent, and the answer."""

    id: str
    to: str
    accepted: bool
    status: int | None
    error: str | None
    response: str | None
    request: Request
