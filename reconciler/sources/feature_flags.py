"""Feature flags: `GET /projects/:id/feature_flags`: whether each is on or off, and since when."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.events import keys, times
from reconciler.events.fields import word
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.reconstruct import SourceData
from reconciler.sources import answers
from reconciler.sources.checked import Page, Read, moment
from reconciler.sources.listing import Listing, Reading
from reconciler.sources.source import Project


class FeatureFlags(Listing[answers.FeatureFlag]):
    """The list has no order by time and no filter, and is short, so all of it is read."""

    name = "feature_flags"
    shape = answers.FeatureFlag

    def pages(self, project: Project, part: Interval) -> Iterator[Page[answers.FeatureFlag]]:
        for page in self._client.pages(f"/projects/{project.id}/feature_flags", self.shape, {}):
            fits = [
                record
                for record in page.records
                if part.start <= (times.parse(record.shown.updated_at) or part.start) < part.end
            ]
            yield Page(fits, page.unreadable)

    def sightings(self, reading: Reading, record: Read[answers.FeatureFlag]) -> Iterator[Sighting]:
        name, active, project = record.shown.name, str(word(record.shown.active)), reading.project
        at = moment(record.shown.updated_at, "updated_at")
        data = SourceData(record=record.raw, project=project.shown)
        key = keys.listed("feature_flag", name, active, project=project.id)
        yield self.make_sighting(
            reading.unreadable, "feature_flag", f"{project.id}:{name}:{active}:{at}", key, at, data
        )
