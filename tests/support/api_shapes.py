"""What GitLab's API would show of the object that a recorded webhook tells of.

Field by field from the API's documentation: a webhook's value goes to where the API shows it, and what the API does
not show at all is dropped. It is the other half of `reconciler/reconstruct`, written apart from it.
"""

from __future__ import annotations

import re
from typing import Any

from reconciler.events import times
from reconciler.events.keys import ZEROS
from reconciler.reconstruct import SourceData

Json = dict[str, Any]
VISIBILITY: dict[Any, str] = {0: "private", 10: "internal", 20: "public"}


def source_data_of(body: Json) -> tuple[str, SourceData]:
    """The kind, and everything that could be asked about it."""
    kind = body.get("object_kind") or "member"
    record, found, more = {
        "push": _push,
        "tag_push": _push,
        "issue": _issue,
        "merge_request": _request,
        "note": _note,
        "wiki_page": _wiki,
        "pipeline": _pipeline,
        "build": _job,
        "deployment": _deployment,
        "release": _release,
        "feature_flag": _flag,
    }[kind](body)
    attributes = body.get("object_attributes") or {}
    action = attributes.get("action") or body.get("action")
    if kind == "note":
        action = action or "create"
    record, found, more = (_in_its_own_times(one) for one in (record, found, more))
    return kind, SourceData(record=record, project=_project(body), action=action, object=found, more=more)


UTC = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(Z| UTC| [+-]\d{4})")


def _in_its_own_times(told: Any) -> Any:
    """With times as the API writes them: `2017-12-10T16:41:28.000Z`."""
    if isinstance(told, dict):
        return {name: _in_its_own_times(value) for name, value in told.items()}
    if isinstance(told, list):
        return [_in_its_own_times(one) for one in told]
    if isinstance(told, str) and UTC.fullmatch(told):
        at = times.parse(told)
        assert at is not None
        return times.iso(at)
    return told


def _project(body: Json) -> Json:
    told = body.get("project") or {}
    old = body.get("repository") or {}
    path = told.get("path_with_namespace")
    return {
        "id": told.get("id") or body.get("project_id") or (body.get("object_attributes") or {}).get("project_id"),
        "name": told.get("name") or old.get("name"),
        "path": path and path.rpartition("/")[2],
        "path_with_namespace": path,
        "name_with_namespace": body.get("project_name"),
        "description": told.get("description", old.get("description")),
        "visibility": VISIBILITY.get(told.get("visibility_level", old.get("visibility_level"))),
        "default_branch": told.get("default_branch"),
        "ci_config_path": told.get("ci_config_path"),
        "web_url": told.get("web_url") or old.get("homepage"),
        "avatar_url": told.get("avatar_url"),
        "ssh_url_to_repo": told.get("git_ssh_url") or old.get("git_ssh_url"),
        "http_url_to_repo": told.get("git_http_url") or old.get("git_http_url"),
        "namespace": {"name": told.get("namespace")},
    }


def _user(told: Any) -> Any:
    if not isinstance(told, dict):
        return told
    return {name: told[name] for name in ("id", "name", "username", "avatar_url") if name in told}


def _commit(told: Any) -> Any:
    if not isinstance(told, dict):
        return None
    author, made = told.get("author") or {}, str(told.get("timestamp"))
    return {
        "id": told.get("id"),
        "title": told.get("title") or str(told.get("message")).split("\n")[0],
        "message": told.get("message"),
        "authored_date": "2001-01-01T00:00:00.000+01:00",  # long before it was committed
        "committed_date": f"{made[:19]}.000{made[19:]}",
        "author_name": author.get("name"),
        "author_email": author.get("email"),
        "web_url": told.get("url"),
    }


def _push(body: Json) -> tuple[Json, Json, Json]:
    before, after, ref = body["before"], body["after"], body["ref"]
    user = {"id": body.get("user_id"), "name": body.get("user_name"), "username": body.get("user_username"),
            "avatar_url": body.get("user_avatar")}  # fmt: skip
    data = {
        "commit_from": None if before == ZEROS else before,
        "commit_to": None if after == ZEROS else after,
        "ref": ref.split("/", 2)[2],
        "ref_type": "tag" if ref.startswith("refs/tags/") else "branch",
        "commit_count": body.get("total_commits_count"),
    }
    record = {"author_id": body.get("user_id"), "author": user, "author_username": body.get("user_username"),
              "push_data": data}  # fmt: skip
    return record, {}, {"commits": [_commit(one) for one in body.get("commits") or []]}


def _worked_on(body: Json, told: Json) -> Json:
    """What issues and merge requests share."""
    stats = ("time_estimate", "total_time_spent", "human_time_estimate", "human_total_time_spent")
    milestone = told.get("milestone_id")
    labels = told.get("labels", body.get("labels")) or []
    names = ("id", "iid", "title", "description", "state", "project_id", "created_at", "updated_at", "due_date",
             "confidential", "closed_at", "discussion_locked", "moved_to_id", "merge_status", "draft", "merge_error",
             "detailed_merge_status", "blocking_discussions_resolved", "merge_commit_sha", "source_branch",
             "target_branch", "source_project_id", "target_project_id", "merge_when_pipeline_succeeds",
             "first_contribution", "prepared_at", "work_in_progress")  # fmt: skip
    shown = {name: told[name] for name in names if name in told}
    people = body.get("assignees") or []
    return shown | {
        "web_url": told.get("url"),
        "author": {"id": told.get("author_id")},
        "assignee": _user(body.get("assignee") or (people[0] if people else None)),
        "assignees": [_user(one) for one in people],
        "milestone": None if milestone is None else {"id": milestone},
        "labels": [{"id": one["id"], "name": one["title"], "color": one["color"], "description": one["description"]}
                   for one in labels],
        "time_stats": {name: told[name] for name in stats if name in told},
    }  # fmt: skip


def _event(body: Json, told: Json) -> Json:
    return {"target_id": told.get("id"), "target_iid": told.get("iid"), "target_title": told.get("title"),
            "author": _user(body.get("user")), "created_at": told.get("updated_at")}  # fmt: skip


def _issue(body: Json) -> tuple[Json, Json, Json]:
    told = body["object_attributes"]
    return _event(body, told), _worked_on(body, told) | {"type": "ISSUE", "severity": "UNKNOWN"}, {}


def _request(body: Json) -> tuple[Json, Json, Json]:
    told = body["object_attributes"]
    reviewers = [_user(one) for one in body.get("reviewers") or []]
    return _event(body, told), _request_shown(body, told) | {"reviewers": reviewers}, {
        "commit": _commit(told.get("last_commit"))
    }  # fmt: skip


def _request_shown(body: Json, told: Json) -> Json:
    pipeline, merger = told.get("head_pipeline_id"), told.get("merge_user_id")
    return _worked_on(body, told) | {
        "head_pipeline": None if pipeline is None else {"id": pipeline},
        "merge_user": None if merger is None else {"id": merger},
        "reviewers": [],
    }


def _note(body: Json) -> tuple[Json, Json, Json]:
    told = body["object_attributes"]
    on = body.get("issue") or body.get("merge_request")
    noteable: Any = None
    if "commit" in body:
        noteable = _commit(body["commit"])
    elif "snippet" in body:
        shown = body["snippet"]
        names = ("id", "title", "created_at", "updated_at", "file_name")
        noteable = {name: shown[name] for name in names if name in shown}
        noteable |= {"author": {"id": shown["author_id"]}, "visibility": VISIBILITY[shown["visibility_level"]]}
    elif on is not None:
        noteable = _request_shown({}, on) | {"assignee": _user(on.get("assignee"))}
    note = {
        "id": told["id"],
        "type": told.get("type"),
        "body": told["note"],
        "attachment": told.get("attachment"),
        "author": _user(body["user"]) | {"id": told.get("author_id")},
        "created_at": told["created_at"],
        "updated_at": told["updated_at"],
        "system": told.get("system"),
        "noteable_type": told["noteable_type"],
        "noteable_id": told.get("noteable_id"),
        "noteable_iid": on and on.get("iid"),
        "commit_id": told.get("commit_id"),
        "position": told.get("position"),
        "confidential": body.get("event_type") == "confidential_note",
    }
    return {"note": note}, {}, {"noteable": noteable, "commit": _commit(on and on.get("last_commit"))}


def _wiki(body: Json) -> tuple[Json, Json, Json]:
    told = body["object_attributes"]
    page = {name: told[name] for name in ("title", "slug", "format", "content")}
    record = {"author": _user(body["user"]), "target_title": told["title"], "wiki_page": page}
    return record, page, {}


def _pipeline(body: Json) -> tuple[Json, Json, Json]:
    told = body["object_attributes"]
    names = ("id", "iid", "name", "ref", "tag", "sha", "before_sha", "source", "status", "created_at", "finished_at",
             "duration", "queued_duration")  # fmt: skip
    shown = {name: told[name] for name in names if name in told} | {"web_url": told.get("url")}
    shown |= {"user": _user(body.get("user")), "detailed_status": {"label": told.get("detailed_status")}}
    jobs = [_job_shown(one) for one in body.get("builds") or []]
    return shown, shown, {"jobs": jobs, "commit": _commit(body.get("commit"))}


def _job_shown(told: Json) -> Json:
    names = ("id", "stage", "name", "status", "created_at", "started_at", "finished_at", "duration",
             "queued_duration", "failure_reason", "allow_failure", "runner")  # fmt: skip
    return {name: told[name] for name in names if name in told} | {
        "user": _user(told.get("user")),
        "artifacts_file": told.get("artifacts_file"),
    }


def _job(body: Json) -> tuple[Json, Json, Json]:
    told, prefix = body["commit"], "build_"
    shown = {name.removeprefix(prefix): value for name, value in body.items() if name.startswith(prefix)}
    shown |= {name: body.get(name) for name in ("ref", "tag", "runner")} | {"user": _user(body.get("user"))}
    shown["pipeline"] = {"id": told.get("id"), "sha": body.get("sha"), "status": told.get("status")}
    shown["commit"] = {"id": told.get("sha"), "message": told.get("message"), "author_name": told.get("author_name"),
                       "author_email": told.get("author_email")}  # fmt: skip
    return shown, {}, {}


def _deployment(body: Json) -> tuple[Json, Json, Json]:
    sha = str(body["commit_url"]).rpartition("/")[2]
    job = {"id": body["deployable_id"], "commit": {"title": body.get("commit_title"), "web_url": body["commit_url"]}}
    user = _user(body["user"]) | {"web_url": body.get("user_url")}
    names = ("slug", "external_url", "tier")
    environment = {name: body[f"environment_{name}"] for name in names if f"environment_{name}" in body}
    shown = {
        "id": body["deployment_id"], "status": body["status"], "updated_at": body["status_changed_at"], "sha": sha,
        "ref": body.get("ref"), "deployable": job, "user": user,
        "environment": environment | {"name": body["environment"]},
    }  # fmt: skip
    return shown, {}, {}


def _release(body: Json) -> tuple[Json, Json, Json]:
    names = ("name", "description", "created_at", "released_at")
    shown = {name: body.get(name) for name in names} | {
        "tag_name": body["tag"],
        "commit": _commit(body.get("commit")),
    }
    return shown | {"assets": body.get("assets")}, {}, {}


def _flag(body: Json) -> tuple[Json, Json, Json]:
    told = body["object_attributes"]
    return {name: told[name] for name in ("name", "description", "active")}, {}, {}
