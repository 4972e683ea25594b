"""Releases: `GET /projects/:id/releases`: that they were made. The list tells neither edits nor deletions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconciler.events import keys, times
from reconciler.events.fields import text
from reconciler.events.sighting import Sighting
from reconciler.ledger.coverage import Interval
from reconciler.reconstruct import Material
from reconciler.sources.details import Details
from reconciler.sources.listing import Listing, Version
from reconciler.sources.source import Project


class Releases(Listing):
    """Newest first by `created_at`."""

    name = "releases"

    def records(self, project: Project, part: Interval, read: list[Version]) -> Iterator[dict[str, Any]]:
        query = {"order_by": "created_at", "sort": "desc"}
        for record in self.pages(f"/projects/{project.id}/releases", query):
            created_at = times.parse(record.get("created_at"))
            if created_at is not None and created_at < part.start:
                return
            if created_at is not None and created_at < part.end:
                yield record

    def sightings(
        self, project: Project, record: dict[str, Any], part: Interval, details: Details
    ) -> Iterator[Sighting]:
        tag, at = text(record.get("tag_name")), times.parse(record.get("created_at"))
        if tag is not None and at is not None:
            material = Material(record=record, project=project.shown, action="create")
            key = keys.listed("release", tag, "create", project=project.id)
            yield self.told("release", f"{project.id}:{tag}:{at}", key, at, material)
