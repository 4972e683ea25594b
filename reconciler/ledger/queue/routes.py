"""Which events go to which destination, and in which lane: decided when an event is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from reconciler.events.fields import parsed
from reconciler.events.sighting import Summary


class Undecided(Exception):
    """A filter can't tell whether it lets an event through. The message says why."""


@dataclass
class Candidate:
    """An event, as a filter sees it. `payload` is asked for only when a filter looks into the body, `others` (the
    paths that its project has or had) only where the one that the event came with does not do.
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
        """The paths that its project has or had: it may have been renamed or moved."""
        return self.others()


class Route(msgspec.Struct, frozen=True):
    """What a destination gets. `accepts` may raise Undecided."""

    destination_id: int
    ordering: str
    accepts: Callable[[Candidate], bool]


class NewDelivery(msgspec.Struct, frozen=True):
    """A delivery to be opened; or, with an error, one that is a dead letter from the start."""

    event_id: int
    destination_id: int
    lane: str
    error: str | None = None


def delivery(route: Route, event_id: int, candidate: Candidate) -> NewDelivery | None:
    """The delivery that an event opens for a destination, or None where its filter does not let it through.

    Where the filter can't tell, the delivery is a dead letter: neither lost nor sent where it may not go.
    """
    about = candidate.summary
    try:
        if not route.accepts(candidate):
            return None
        error = None
    except Undecided as why:
        error = f"the filter can't tell: {why}"
    except Exception as why:  # whatever a filter does wrong, it must not cost the event its commit
        error = f"the filter can't tell: {type(why).__name__}: {why}"[:1000]
    return NewDelivery(event_id, route.destination_id, lane(route.ordering, event_id, about), error)


def lane(ordering: str, event_id: int, about: Summary) -> str:
    """Which lane a delivery queues in: its project's, its object's, or one of its own where order does not matter.

    An event that is about no object that we know queues in its project's.
    """
    if ordering == "none":
        return f"event:{event_id:012d}"
    project = f"project:{about.project_id or 0}"
    return f"{project}/{about.object}" if ordering == "object" and about.object else project
