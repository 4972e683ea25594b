"""What every source is: something that reads a window of a project's past, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.events.times import DAY, Millis
from reconciler.events.unreadable import Unreadable

FOREVER = Millis(10 * 365 * DAY)
"""GitLab deletes nothing of this by itself; no backfill looks back further."""


def place(ident: int) -> str:
    """Where the API has a project, or a group (its id below zero)."""
    return f"/groups/{-ident}" if ident < 0 else f"/projects/{ident}"


class Project(msgspec.Struct, frozen=True):
    """A project of GitLab's; `details` is what `GET /projects/:id` says of it.

    A group, whose own webhook has a log too, is one with its id below zero: no project and no group share an id then.
    """

    id: int
    path: str | None = None
    details: dict[str, Any] = {}

    @property
    def shown(self) -> dict[str, Any]:
        """What is known of it, at least its id and path."""
        return {"id": self.id, "path_with_namespace": self.path} | self.details


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of a window at a time: a page or so, never all of it.

    `covered` is the part that has been read completely with this slice and those before it, None where more of it is
    to come. `unreadable` are records that could not be understood, `understood` the names of those that were.
    """

    sightings: list[Sighting] = []
    covered: Interval | None = None
    unreadable: list[Unreadable] = []
    understood: list[str] = []


class Source(Protocol):
    """Where sightings come from, other than webhooks. Methods block: call them from a thread."""

    name: str
    keeps_for: Millis
    """How long GitLab keeps what this source reads."""
    completes: bool
    """Whether `complete` can add anything."""

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window, oldest slice first. What the slices cover joins up, and is the window in the end. No slice
        holds more than a page of GitLab's answers or two.

        The payloads are in the webhook's shape, built from what the reading itself brought along.
        Raises SourceError where GitLab can't be read.
        """
        ...

    def complete(self, project: Project, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Ask GitLab for what the bodies of these lack. Only for what no webhook told: it costs requests.

        Raises SourceError where GitLab can't be read; what GitLab no longer shows stays as it is.
        """
        ...
