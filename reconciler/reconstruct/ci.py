"""CI events: pipelines, jobs, deployments."""

from __future__ import annotations

from typing import Any

from reconciler.events.fields import dig
from reconciler.reconstruct import common
from reconciler.reconstruct.common import when, when_iso
from reconciler.reconstruct.source_data import UNKNOWN, Guess, Json, SourceData, known

REQUEST_REFS = "refs/merge-requests/"
"""The prefix of merge request refs, as in `refs/merge-requests/12/head`."""


def pipeline(data: SourceData) -> Json:
    """A pipeline; data.object is `GET /projects/:id/pipelines/:id`, more["jobs"] its jobs."""
    shown = data.record | data.object
    jobs = data.more.get("jobs")
    if isinstance(jobs, list):  # newest first in the API; stages are in the order of the jobs' creation
        jobs = sorted(jobs, key=lambda job: job.get("id") or 0)
    return {
        "object_kind": "pipeline",
        "object_attributes": {
            "id": known(shown, "id"),
            "iid": known(shown, "iid"),
            "name": known(shown, "name"),
            "ref": _source_ref(shown, data.more.get("merge_request")),
            "ref_status_name": UNKNOWN,
            "tag": known(shown, "tag"),
            "sha": known(shown, "sha"),
            "before_sha": known(shown, "before_sha"),
            "source": known(shown, "source"),
            "status": known(shown, "status"),
            "detailed_status": dig(shown, "detailed_status.label") or UNKNOWN,
            "stages": _stages(jobs),
            "created_at": when(known(shown, "created_at")),
            "finished_at": when(known(shown, "finished_at")),
            "duration": known(shown, "duration"),
            "queued_duration": known(shown, "queued_duration"),
            "protected_ref": UNKNOWN,
            "variables": UNKNOWN,
            "url": known(shown, "web_url"),
        },
        "merge_request": _merge_request(shown, data.more.get("merge_request")),
        "user": common.actor(shown.get("user")),
        "project": common.ci_project(data.project),
        "commit": common.commit(data.more.get("commit")),
        **_source_pipeline(shown),
        "builds": [_build(job) for job in jobs] if isinstance(jobs, list) else UNKNOWN,
    }


def _source_ref(shown: Json, found: Any) -> Any:
    """The branch. For a merge request pipeline, the API has the merge request's ref instead."""
    ref = known(shown, "ref")
    if not isinstance(ref, str) or not ref.startswith(REQUEST_REFS):
        return ref
    return known(found, "source_branch") if isinstance(found, dict) else UNKNOWN


def _source_pipeline(shown: Json) -> Json:
    """Only a pipeline that another one started has one, and GitLab's API does not say which."""
    return {"source_pipeline": UNKNOWN} if shown.get("source") in ("pipeline", "parent_pipeline") else {}


def _stages(jobs: Any) -> Any:
    """The stages that have jobs, in the order of their first jobs. There can be more."""
    return Guess(list(dict.fromkeys(job.get("stage") for job in jobs))) if isinstance(jobs, list) else UNKNOWN


def _merge_request(shown: Json, found: Any) -> Any:
    """Only a pipeline that a merge request started has one."""
    if shown.get("source") not in ("merge_request_event", UNKNOWN):
        return None
    if not isinstance(found, dict):
        return UNKNOWN
    names = (
        "id", "iid", "title", "source_branch", "source_project_id", "target_branch", "target_project_id", "state",
        "merge_status", "detailed_merge_status",
    )  # fmt: skip
    return {name: known(found, name) for name in names} | {"url": known(found, "web_url")}


def _build(job: Json) -> Json:
    artifacts = job.get("artifacts_file") or {}
    manual = job.get("status") == "manual"
    return {
        "id": known(job, "id"),
        "stage": known(job, "stage"),
        "name": known(job, "name"),
        "status": known(job, "status"),
        "created_at": when(known(job, "created_at")),
        "started_at": when(known(job, "started_at")),
        "finished_at": when(known(job, "finished_at")),
        "duration": known(job, "duration"),
        "queued_duration": known(job, "queued_duration"),
        "failure_reason": job.get("failure_reason"),
        "when": "manual" if manual else UNKNOWN,
        "manual": True if manual else UNKNOWN,
        "allow_failure": known(job, "allow_failure"),
        "user": common.actor(job.get("user")),
        "runner": _runner(job.get("runner")),
        "artifacts_file": {"filename": artifacts.get("filename"), "size": artifacts.get("size")},
        "environment": UNKNOWN,
    }


def _runner(shown: Any) -> Any:
    if not isinstance(shown, dict):
        return None
    return {
        "id": known(shown, "id"),
        "description": known(shown, "description"),
        "runner_type": known(shown, "runner_type"),
        "active": known(shown, "active"),
        "is_shared": known(shown, "is_shared"),
        "tags": UNKNOWN,
    }


def build(data: SourceData) -> Json:
    """A job; GitLab's lists of jobs show all of it."""
    job, place = data.record, data.project
    of = job.get("pipeline") or {}
    commit = job.get("commit") or {}
    name = (place.get("name_with_namespace") or place.get("path_with_namespace")) or UNKNOWN
    return {
        "object_kind": "build",
        "ref": known(job, "ref"),
        "tag": known(job, "tag"),
        "before_sha": UNKNOWN,
        "sha": known(of, "sha") if of else known(commit, "id"),
        "retries_count": UNKNOWN,
        "build_id": known(job, "id"),
        "build_name": known(job, "name"),
        "build_stage": known(job, "stage"),
        "build_status": known(job, "status"),
        "build_created_at": when(known(job, "created_at")),
        "build_started_at": when(known(job, "started_at")),
        "build_finished_at": when(known(job, "finished_at")),
        **{f"build_{name}_iso": when_iso(known(job, name)) for name in ("created_at", "started_at", "finished_at")},
        "build_duration": known(job, "duration"),
        "build_queued_duration": known(job, "queued_duration"),
        "build_allow_failure": known(job, "allow_failure"),
        "build_failure_reason": job.get("failure_reason") or "unknown_failure",
        "pipeline_id": known(of, "id"),
        "runner": _runner(job.get("runner")),
        "project_id": known(place, "id"),
        "project_name": name,
        "user": common.actor(job.get("user")),
        "commit": {
            "id": known(of, "id"),
            "name": UNKNOWN,
            "sha": known(commit, "id"),
            "message": known(commit, "message"),
            "author_name": known(commit, "author_name"),
            "author_email": known(commit, "author_email"),
            "author_url": UNKNOWN,
            "status": known(of, "status"),
            "duration": UNKNOWN,
            "started_at": UNKNOWN,
            "finished_at": UNKNOWN,
            "started_at_iso": UNKNOWN,
            "finished_at_iso": UNKNOWN,
        },
        "repository": common.full_repository(place),
        "project": common.ci_project(place),
        "environment": UNKNOWN,
        **_source_pipeline(of),
    }


def deployment(data: SourceData) -> Json:
    """A deployment; the list shows all of it."""
    shown, place = data.record, data.project
    job = shown.get("deployable") or {}
    commit = job.get("commit") or {}
    environment = shown.get("environment") or {}
    user = shown.get("user")
    url = place.get("web_url")
    return {
        "object_kind": "deployment",
        "status": known(shown, "status"),
        "status_changed_at": when(known(shown, "updated_at")),
        "deployment_id": known(shown, "id"),
        "deployable_id": known(job, "id"),
        "deployable_url": f"{url}/-/jobs/{job['id']}" if url and "id" in job else UNKNOWN,
        "environment": known(environment, "name"),
        "environment_tier": known(environment, "tier"),
        "environment_slug": known(environment, "slug"),
        "environment_external_url": known(environment, "external_url"),
        "project": common.project(place),
        "short_sha": str(shown["sha"])[:8] if shown.get("sha") else UNKNOWN,
        "user": common.actor(user),
        "user_url": known(user, "web_url") if isinstance(user, dict) else UNKNOWN,
        "commit_url": known(commit, "web_url") if "web_url" in commit else _commit_url(url, shown.get("sha")),
        "commit_title": known(commit, "title"),
        "ref": known(shown, "ref"),
    }


def _commit_url(url: Any, sha: Any) -> Any:
    return f"{url}/-/commit/{sha}" if url and sha else UNKNOWN
