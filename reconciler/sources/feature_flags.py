"""Feature flags: `GET /projects/:id/feature_flags`: whether each is on or off, and since when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconciler.events import keys, times
from reconciler.events.fields import text, word
from reconciler.events.sighting import Sighting
from reconciler.ledger.coverage import Interval
from reconciler.reconstruct import Material
from reconciler.sources.details import Details
from reconciler.sources.listing import Listing, Version
from reconciler.sources.source import Project


class FeatureFlags(Listing):
    """The list has no order by time and no filter, and is short: it is read whole."""

    name = "feature_flags"

    def records(self, project: Project, part: Interval, read: list[Version]) -> Iterator[dict[str, Any]]:
        for record in self.pages(f"/projects/{project.id}/feature_flags", {}):
            if part.start <= (times.parse(record.get("updated_at")) or 0) < part.end:
                yield record

    def sightings(
        self, project: Project, record: dict[str, Any], part: Interval, details: Details
    ) -> Iterator[Sighting]:
        name, active = text(record.get("name")), word(record.get("active"))
        at = times.parse(record.get("updated_at"))
        if name is not None and active is not None and at is not None:
            material = Material(record=record, project=project.shown)
            key = keys.listed("feature_flag", name, active, project=project.id)
            yield self.told("feature_flag", f"{project.id}:{name}:{active}:{at}", key, at, material)
