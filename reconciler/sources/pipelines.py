"""Pipelines and jobs: the state that each is in. The states on the way there are not to be had again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from reconciler.events import keys, times
from reconciler.events.fields import number, text
from reconciler.events.sighting import Sighting
from reconciler.ledger.coverage import Interval
from reconciler.reconstruct import Material
from reconciler.sources.details import Details
from reconciler.sources.listing import Listing, Version
from reconciler.sources.shape import raw_record
from reconciler.sources.source import Project

_REQUEST_REF = re.compile(r"refs/merge-requests/(\d+)/")
"""The ref of a pipeline that a merge request started."""


class Pipelines(Listing):
    """`GET /projects/:id/pipelines?updated_after=`."""

    name = "pipelines"
    completes = True

    def records(self, project: Project, part: Interval, read: list[Version]) -> Iterator[dict[str, Any]]:
        return self.changed(f"/projects/{project.id}/pipelines", part, {})

    def sightings(
        self, project: Project, record: dict[str, Any], part: Interval, details: Details
    ) -> Iterator[Sighting]:
        told = self._told(project, record, Material(record=record, project=project.shown))
        if told is not None:
            yield told

    def complete(self, project: Project, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Ask for the pipeline and its jobs. When it finished says better than `updated_at` which end it was."""
        details = Details(self._client, project)
        completed = []
        for sighting in sightings:
            record = raw_record(sighting)
            path = f"/pipelines/{record.get('id')}"
            shown = details.get(path)
            if not isinstance(shown, dict) or shown.get("status") != record.get("status"):
                completed.append(sighting)  # gone, or gone on: what the list showed is all there is of that state
                continue
            more = {
                "jobs": details.all(f"{path}/jobs"),
                "commit": details.commit(shown.get("sha")),
            }
            material = Material(record=record, project=project.shown, object=shown, more=more)
            completed.append(self._told(project, {**record, **shown}, material) or sighting)
        return completed

    def _told(self, project: Project, shown: dict[str, Any], material: Material) -> Sighting | None:
        ident, status = number(shown.get("id")), text(shown.get("status"))
        at = times.parse(shown.get("finished_at")) or times.parse(shown.get("updated_at"))
        if ident is None or status is None or at is None:
            return None
        return self.told("pipeline", f"{ident}:{status}:{at}", keys.listed("pipeline", ident, status), at, material)


class Jobs(Listing):
    """The jobs of the pipelines that changed: `GET /projects/:id/pipelines/:id/jobs`.

    GitLab's list of a project's jobs can't be asked for what changed; a pipeline changes when its last job ends.
    """

    name = "jobs"

    def records(self, project: Project, part: Interval, read: list[Version]) -> Iterator[dict[str, Any]]:
        for pipeline in self.new_versions(f"/projects/{project.id}/pipelines", part, {}, read):
            path = f"/projects/{project.id}/pipelines/{pipeline.get('id')}/jobs"
            yield from self.pages(path, {"include_retried": "true"})

    def sightings(
        self, project: Project, record: dict[str, Any], part: Interval, details: Details
    ) -> Iterator[Sighting]:
        ident, status = number(record.get("id")), text(record.get("status"))
        at = next(
            (at for field in ("finished_at", "started_at", "created_at") if (at := times.parse(record.get(field)))),
            None,
        )
        if ident is not None and status is not None and at is not None:
            material = Material(record=record, project=project.shown)
            key = keys.listed("build", ident, status)
            once = record.get("finished_at") is None
            yield self.told("build", f"{ident}:{status}", key, at, material, once=once)
