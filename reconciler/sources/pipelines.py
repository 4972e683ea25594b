"""Pipelines and jobs: the current state of each. Earlier states can't be recovered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from reconciler.events import keys, times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.events.unreadable import Unreadable
from reconciler.reconstruct import SourceData
from reconciler.reconstruct.ci import REQUEST_REFS
from reconciler.sources import answers, checked
from reconciler.sources.checked import Page, Read, moment
from reconciler.sources.details import Details
from reconciler.sources.listing import Listing, Reading
from reconciler.sources.source import Project
from reconciler.sources.webhook_payload import raw_record, whole


class Pipelines(Listing[answers.Pipeline]):
    """`GET /projects/:id/pipelines?updated_after=`."""

    name = "pipelines"
    shape = answers.Pipeline
    completes = True

    def pages(self, project: Project, part: Interval) -> Iterator[Page[answers.Pipeline]]:
        return self.changed(f"/projects/{project.id}/pipelines", project, part, {})

    def sightings(self, reading: Reading, record: Read[answers.Pipeline]) -> Iterator[Sighting]:
        data = SourceData(record=record.raw, project=reading.project.shown)
        yield self._state_sighting(reading.unreadable, record.shown, data)

    def complete(self, project: Project, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Get the pipeline and its jobs. `finished_at` tells better than `updated_at` which end it was."""
        details = Details(self._client, project)
        return [whole(sighting, partial(self._complete, project, details)) for sighting in sightings]

    def _complete(self, project: Project, details: Details, sighting: Sighting) -> Sighting:
        record = raw_record(sighting)
        path = f"/pipelines/{record['id']}"
        shown = details.get(path, answers.Pipeline)
        if shown is None or shown["status"] != record["status"]:
            return sighting  # deleted, or in another state now: the list's record is all there is of this state
        jobs = details.all(f"{path}/jobs", answers.Job)
        more = {
            "jobs": None if jobs is None else [job.raw for job in jobs],
            "commit": details.commit(shown.get("sha")),
            "merge_request": details.merge_request(_request_of(shown.get("ref"))),
        }
        data = SourceData(record=record, project=project.shown, object=shown, more=more)
        failed: list[Unreadable] = []
        made = self._state_sighting(failed, checked.read(path, {**record, **shown}, self.shape).shown, data)
        return sighting if failed else made

    def _state_sighting(self, failed: list[Unreadable], shown: answers.Pipeline, data: SourceData) -> Sighting:
        at = times.stated(shown.finished_at) or moment(shown.updated_at, "updated_at")
        key = keys.listed("pipeline", shown.id, shown.status)
        return self.make_sighting(failed, "pipeline", f"{shown.id}:{shown.status}:{at}", key, at, data)


def _request_of(ref: Any) -> str | None:
    """The merge request's number if this is a merge request's ref, else None."""
    if not isinstance(ref, str) or not ref.startswith(REQUEST_REFS):
        return None
    return ref.removeprefix(REQUEST_REFS).partition("/")[0]


class JobsSource(Listing[answers.Pipeline]):
    """The jobs of the pipelines that changed: `GET /projects/:id/pipelines/:id/jobs`.

    GitLab's list of a project's jobs has no filter by change; a pipeline changes when its last job ends.
    """

    name = "jobs"
    shape = answers.Pipeline
    once_a_version = True

    def pages(self, project: Project, part: Interval) -> Iterator[Page[answers.Pipeline]]:
        return self.changed(f"/projects/{project.id}/pipelines", project, part, {})

    def sightings(self, reading: Reading, record: Read[answers.Pipeline]) -> Iterator[Sighting]:
        path = f"/projects/{reading.project.id}/pipelines/{record.shown.id}/jobs"
        for page in self.below(reading, record, path, answers.Job, {"include_retried": "true"}):
            for job in page.records:
                yield self._job(reading, job)

    def _job(self, reading: Reading, job: Read[answers.Job]) -> Sighting:
        shown = job.shown
        own_times = (times.stated(text) for text in (shown.finished_at, shown.started_at))
        at = next((at for at in own_times if at is not None), None) or moment(shown.created_at, "created_at")
        data = SourceData(record=job.raw, project=reading.project.shown)
        key = keys.listed("build", shown.id, shown.status)
        once = shown.finished_at is None
        return self.make_sighting(reading.unreadable, "build", f"{shown.id}:{shown.status}", key, at, data, once=once)
