"""What every source is: something that reads a window of a project's past, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from reconciler.events.sighting import Sighting
from reconciler.ledger.coverage import Interval


class Project(msgspec.Struct, frozen=True):
    """A project of GitLab's."""

    id: int
    path: str | None = None


class Slice(msgspec.Struct, frozen=True):
    """A part of a window, read completely: what it covers, what was seen in it (oldest first), at what cost."""

    covered: Interval
    sightings: list[Sighting]
    requests: int


class Source(Protocol):
    """Where sightings come from, other than webhooks. Methods block: call them from a thread."""

    name: str
    keeps_for: int
    """How long GitLab keeps what this source reads, in milliseconds."""

    def read(self, project: Project, window: Interval) -> Iterator[Slice]:
        """Read a window, oldest slice first. Slices join up and cover the window.

        Raises SourceError where GitLab can't be read.
        """
        ...
