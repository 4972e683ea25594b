"""Routes: which events go to which destination, and in which lane. Decided when an event is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from reconciler.events.fields import parsed
from reconciler.events.sighting import Summary


class Undecided(Exception):
    """A filter can't decide whether it accepts an event. The message says why."""


@dataclass
class Candidate:
    """An event as a filter sees it.

    `payload` is called only if a filter looks into the body. `others` (the present and former paths of its project)
    is called only if the path in the event does not match.
    """

    summary: Summary
    source: str
    payload: Callable[[], str]
    others: Callable[[], Sequence[str]] = tuple

    @cached_property
    def body(self) -> Any:
        """The body, parsed."""
        return parsed(self.payload())

    @cached_property
    def other_paths(self) -> Sequence[str]:
        """The present and former paths of its project, which may have been renamed or moved."""
        return self.others()


class Route(msgspec.Struct, frozen=True):
    """Which events a destination gets. `accepts` may raise Undecided."""

    destination_id: int
    ordering: str
    accepts: Callable[[Candidate], bool]


class NewDelivery(msgspec.Struct, frozen=True):
    """A delivery to be opened. With an error, it is a dead letter from the start."""

    event_id: int
    destination_id: int
    lane: str
    error: str | None = None


def delivery(route: Route, event_id: int, candidate: Candidate) -> NewDelivery | None:
    """The delivery that an event opens for a destination; None if the filter rejects it.

    If the filter can't decide, the delivery is a dead letter: it is neither lost nor sent where it may not go.
    """
    about = candidate.summary
    try:
        if not route.accepts(candidate):
            return None
        error = None
    except Undecided as why:
        error = f"the filter can't decide: {why}"
    except Exception as why:  # an error in a filter must not make the commit of the event fail
        error = f"the filter can't decide: {type(why).__name__}: {why}"[:1000]
    return NewDelivery(event_id, route.destination_id, lane(route.ordering, event_id, about), error)


def lane(ordering: str, event_id: int, about: Summary) -> str:
    """The lane of a delivery: its project's, its object's, or its own if order does not matter.

    An event of no known object is in its project's lane.
    """
    if ordering == "none":
        return f"event:{event_id:012d}"
    project = f"project:{about.project_id or 0}"
    return f"{project}/{about.object}" if ordering == "object" and about.object else project
