"""Pipelines and jobs: the current state of each. Earlier states can't be recovered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from reconciler.events import keys, times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Identity, Precision, Sighting
from reconciler.events.unreadable import Unreadable
from reconciler.reconstruct import SourceData
from reconciler.reconstruct.ci import REQUEST_REFS
from reconciler.sources import answers, checked
from reconciler.sources.checked import Page, Read, moment
from reconciler.sources.details import Details
from reconciler.sources.listing import Listing, Reading
from reconciler.sources.source import Built, Project
from reconciler.sources.webhook_payload import listed_record, raw_record, with_details


class Pipelines(Listing[answers.Pipeline]):
    """`GET /projects/:id/pipelines?updated_after=`."""

    name = "pipelines"
    shape = answers.Pipeline
    rebuilds_lazily = True

    def pages(self, project: Project, part: Interval) -> Iterator[Page[answers.Pipeline]]:
        return self.changed(f"/projects/{project.id}/pipelines", project, part, {})

    def sightings(self, reading: Reading, record: Read[answers.Pipeline]) -> Iterator[Sighting]:
        yield self._state_of(record.shown, SourceData(record=record.raw, project=reading.project.shown))

    def build(self, project: Project, sightings: Sequence[Sighting], *, details: bool) -> Built:
        """Rebuild the payloads; with details, get each pipeline and its jobs."""
        failed: list[Unreadable] = []
        detailed = partial(self._detailed, project, Details(self._client, project))
        built = []
        for one in sightings:
            plain = SourceData(record=raw_record(one), project=project.shown)
            found = with_details(one, detailed) if details else None
            built.append(found or self.with_payload(failed, one, plain))
        return Built(built, failed)

    def _detailed(self, project: Project, details: Details, sighting: Sighting) -> Sighting | None:
        """`finished_at` identifies more exactly than `updated_at` which completion of the pipeline it was."""
        record = raw_record(sighting)
        path = f"/pipelines/{record['id']}"
        shown = details.get(path, answers.Pipeline)
        if shown is None or shown["status"] != record["status"]:
            return None  # deleted, or in another state now: the list's record is the only record of this state
        jobs = details.all(f"{path}/jobs", answers.Job)
        more = {
            "jobs": None if jobs is None else [job.raw for job in jobs],
            "commit": details.commit(shown.get("sha")),
            "merge_request": details.merge_request(_request_of(shown.get("ref"))),
        }
        data = SourceData(record=record, project=project.shown, object=shown, more=more)
        failed: list[Unreadable] = []
        bare = self._state_of(checked.read(path, {**record, **shown}, self.shape).shown, data)
        made = self.with_payload(failed, bare, data)
        return None if failed else made

    def _state_of(self, shown: answers.Pipeline, data: SourceData) -> Sighting:
        at = times.stated(shown.finished_at) or moment(shown.updated_at, "updated_at")
        identity = Identity(keys.listed("pipeline", shown.id, shown.status), at, Precision.GITLAB_TIME)
        return listed_record(self.name, f"{shown.id}:{shown.status}:{at}", identity, "pipeline", data)


def _request_of(ref: Any) -> str | None:
    """The merge request's number if this is a merge request's ref, else None."""
    if not isinstance(ref, str) or not ref.startswith(REQUEST_REFS):
        return None
    return ref.removeprefix(REQUEST_REFS).partition("/")[0]


class Jobs(Listing[answers.Pipeline]):
    """The jobs of the pipelines that changed: `GET /projects/:id/pipelines/:id/jobs`.

    GitLab's list of a project's jobs has no filter by change; a pipeline changes when its last job ends.
    """

    name = "jobs"
    shape = answers.Pipeline
    once_per_version = True

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
