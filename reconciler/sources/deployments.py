"""Deployments: `GET /projects/:id/deployments?updated_after=`: the state that each is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconciler.events import keys, times
from reconciler.events.fields import number, text
from reconciler.events.sighting import Sighting
from reconciler.ledger.coverage import Interval
from reconciler.reconstruct import Material
from reconciler.sources.details import Details
from reconciler.sources.listing import Listing, Version
from reconciler.sources.source import Project


class Deployments(Listing):
    """A deployment reaches each of its states once."""

    name = "deployments"

    def records(self, project: Project, part: Interval, read: list[Version]) -> Iterator[dict[str, Any]]:
        return self.changed(f"/projects/{project.id}/deployments", part, {})

    def sightings(
        self, project: Project, record: dict[str, Any], part: Interval, details: Details
    ) -> Iterator[Sighting]:
        ident, status = number(record.get("id")), text(record.get("status"))
        at = times.parse(record.get("updated_at"))
        if ident is not None and status is not None and at is not None:
            material = Material(record=record, project=project.shown)
            key = keys.listed("deployment", ident, status)
            yield self.told("deployment", f"{ident}:{status}", key, at, material, once=True)
