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


class Source(Protocol):
    """A source of sightings other than webhooks. Its methods block: call them from a thread."""

    name: str
    keeps_for: Millis
    """How long GitLab keeps the data of this source."""
    completes: bool
    """Whether `complete` can add anything."""

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window, oldest slice first. Together the slices cover the window. A slice has at most one or two
        pages of GitLab's answers.

        The payloads are webhook payloads, rebuilt from what was read. Raises SourceError if GitLab can't be read.
        """
        ...

    def complete(self, project: Project, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Get the details that the bodies of these sightings lack. It costs requests, so call it only for events that
        no webhook reported.

        Raises SourceError if GitLab can't be read. A body whose details are gone stays as it is.
        """
        ...
