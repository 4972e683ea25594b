"""Deployments: `GET /projects/:id/deployments?updated_after=`: the current state of each."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.events import keys
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.reconstruct import SourceData
from reconciler.sources import answers
from reconciler.sources.checked import Page, Read, moment
from reconciler.sources.listing import Listing, Reading
from reconciler.sources.source import Project


class Deployments(Listing[answers.Deployment]):
    """A deployment reaches each of its states once."""

    name = "deployments"
    shape = answers.Deployment

    def pages(self, project: Project, part: Interval) -> Iterator[Page[answers.Deployment]]:
        return self.changed(f"/projects/{project.id}/deployments", project, part, {})

    def sightings(self, reading: Reading, record: Read[answers.Deployment]) -> Iterator[Sighting]:
        shown = record.shown
        at = moment(shown.updated_at, "updated_at")
        data = SourceData(record=record.raw, project=reading.project.shown)
        key = keys.listed("deployment", shown.id, shown.status)
        yield self.make_sighting(
            reading.unreadable, "deployment", f"{shown.id}:{shown.status}", key, at, data, once=True
        )
