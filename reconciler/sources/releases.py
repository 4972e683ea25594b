"""Releases: `GET /projects/:id/releases`: only their creation. The list shows neither edits nor deletions."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.events import keys, times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.reconstruct import SourceData
from reconciler.sources import answers
from reconciler.sources.checked import Page, Read, moment
from reconciler.sources.listing import Listing, Reading
from reconciler.sources.source import Project


class Releases(Listing[answers.Release]):
    """Newest first by `created_at`."""

    name = "releases"
    shape = answers.Release

    def pages(self, project: Project, part: Interval) -> Iterator[Page[answers.Release]]:
        query = {"order_by": "created_at", "sort": "desc"}
        for page in self._client.pages(f"/projects/{project.id}/releases", self.shape, query):
            made = [(times.parse(record.shown.created_at), record) for record in page.records]
            yield Page([record for at, record in made if at is None or part.start <= at < part.end], page.unreadable)
            if any(at is not None and at < part.start for at, _ in made):
                return

    def sightings(self, reading: Reading, record: Read[answers.Release]) -> Iterator[Sighting]:
        tag, project = record.shown.tag_name, reading.project
        at = moment(record.shown.created_at, "created_at")
        data = SourceData(record=record.raw, project=project.shown, action="create")
        key = keys.listed("release", tag, "create", project=project.id)
        yield self.make_sighting(reading.unreadable, "release", f"{project.id}:{tag}:{at}", key, at, data)
