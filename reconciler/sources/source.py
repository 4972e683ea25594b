"""The interface of a source: it reads a window of a project's past, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.events.times import DAY, Millis
from reconciler.events.unreadable import Unreadable

FOREVER = Millis(10 * 365 * DAY)
"""For data that GitLab never deletes by itself. No backfill looks back further."""


def place(ident: int) -> str:
    """The API path of a project, or of a group (with a negative id)."""
    return f"/groups/{-ident}" if ident < 0 else f"/projects/{ident}"


class Project(msgspec.Struct, frozen=True):
    """A GitLab project; `details` is the answer of `GET /projects/:id`.

    A group, whose webhook has a hook log too, is one with a negative id, so that no project and group share an id.
    """

    id: int
    path: str | None = None
    details: dict[str, Any] = {}

    @property
    def shown(self) -> dict[str, Any]:
        """Its details, at least id and path."""
        return {"id": self.id, "path_with_namespace": self.path} | self.details


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of a window at once: about a page, never all of it.

    `covered` is the part that is read completely with this slice and those before it; None while more of it is to
    come. `unreadable` are the records that could not be used, `understood` the names of those that could.
    """

    sightings: list[Sighting] = []
    covered: Interval | None = None
    unreadable: list[Unreadable] = []
    understood: list[str] = []


class Built(msgspec.Struct, frozen=True):
    """Sightings with their webhook payloads, in the order in which they were given, and the records of which none
    could be built: these sightings keep the record as their payload.
    """

    sightings: list[Sighting]
    unreadable: list[Unreadable] = []


class Source(Protocol):
    """A source of sightings other than webhooks. Its methods block: call them from a thread."""

    name: str
    keeps_for: Millis
    """How long GitLab keeps the data of this source."""
    rebuilds_lazily: bool
    """Whether `read` leaves API records as payloads, so that `build` can make each webhook payload with what is known
    by then: whether the event is new."""

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window, oldest slice first. Together the slices cover the window. A slice has at most one or two
        pages of GitLab's answers.

        The payloads are webhook payloads, rebuilt from what was read, unless the source `rebuilds_lazily`. Raises
        SourceError if GitLab can't be read.
        """
        ...

    def build(self, project: Project, sightings: Sequence[Sighting], *, details: bool) -> Built:
        """Rebuild the webhook payloads of sightings that `read` left as records; only for a source that
        `rebuilds_lazily`.

        With `details` GitLab is asked for what the records lack. It costs requests, so it is for events that no
        webhook reported. Raises SourceError if GitLab can't be read. A body whose details are gone is built without
        them.
        """
        ...
