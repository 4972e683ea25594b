"""Work: issues, merge requests, milestones, wiki pages, comments."""

from __future__ import annotations

from typing import Any

from reconciler.events import times
from reconciler.events.fields import dig
from reconciler.reconstruct import common
from reconciler.reconstruct.common import when
from reconciler.reconstruct.source_data import UNKNOWN, Guess, Json, SourceData, known

_STATES = {"opened": 1, "closed": 2, "merged": 3, "locked": 4}


_STATE_AFTER = {"open": "opened", "reopen": "opened", "close": "closed", "merge": "merged"}
"""The state after an action, whatever happened to the object since."""
_SAME_MOMENT = times.MINUTE


def _as_it_was(data: SourceData) -> Json:
    """The object with the state that it had after the event."""
    shown = dict(data.object)
    state = _STATE_AFTER.get(data.action or "")
    if state is not None and "state" in shown:
        shown["state"] = state
        if state == "opened":
            shown["closed_at"] = None
    return shown


def _maybe_later(value: Any, data: SourceData) -> Any:
    """A value of the object's current state: a guess if the object changed after the event."""
    happened = times.parse(data.record.get("created_at"))
    changed = times.parse(data.object.get("updated_at"))
    later = happened is not None and changed is not None and changed - happened > _SAME_MOMENT
    return Guess(value) if later else value


def issue(data: SourceData) -> Json:
    """An issue or a work item; data.object is `GET /projects/:id/issues/:iid`."""
    shown, place = _as_it_was(data), data.project
    attributes = issue_attributes(shown, data.record, place)
    kind = "issue" if _kind_of_issue(shown) in ("", "ISSUE", "INCIDENT") else "work_item"
    confidential = bool(shown.get("confidential"))
    return {
        "object_kind": kind,
        "event_type": _maybe_later(f"confidential_{kind}" if confidential else kind, data),
        "user": common.actor(data.author),
        "project": common.project(place),
        "object_attributes": _maybe_later(attributes | {"action": _action(data)}, data),
        "labels": common.labels(shown.get("labels"), place.get("id")),
        "changes": data.more.get("changes", UNKNOWN),
        "repository": common.repository(place),
        **common.unless_empty("assignees", common.people(shown.get("assignees"))),
    }


def issue_attributes(shown: Json, record: Json, place: Json) -> Json:
    """The attributes of an issue or a work item, also in notes on it (`lib/gitlab/hook_data/issue_builder.rb`)."""
    kind = _kind_of_issue(shown)
    return _work(shown, record) | {
        "closed_at": when(known(shown, "closed_at")),
        "confidential": known(shown, "confidential"),
        "customer_relations_contacts": UNKNOWN,
        "discussion_locked": known(shown, "discussion_locked"),
        "due_date": known(shown, "due_date"),
        "duplicated_to_id": UNKNOWN,
        "health_status": known(shown, "health_status"),
        "moved_to_id": known(shown, "moved_to_id"),
        "project_id": known(place, "id"),
        "relative_position": UNKNOWN,
        "severity": str(shown["severity"]).lower() if shown.get("severity") else UNKNOWN,
        "start_date": known(shown, "start_date"),
        "type": kind.replace("_", " ").title() if kind else UNKNOWN,
        "weight": known(shown, "weight"),
        **({"escalation_status": UNKNOWN, "escalation_policy": UNKNOWN} if kind == "INCIDENT" else {}),
    }


def _kind_of_issue(shown: Json) -> str:
    """`ISSUE`, `TEST_CASE`, `KEY_RESULT`, ...; empty if it is not known."""
    return str(shown.get("type") or shown.get("issue_type") or "").upper()


def merge_request(data: SourceData) -> Json:
    """A merge request; data.object is `GET /projects/:id/merge_requests/:iid`."""
    shown, place = _as_it_was(data), data.project
    attributes = merge_request_attributes(data.more.get("commit"), shown, data.record, place)
    attributes["action"] = _action(data)
    if "oldrev" in data.more:
        attributes["oldrev"] = data.more["oldrev"]
    return {
        "object_kind": "merge_request",
        "event_type": "merge_request",
        "user": common.actor(data.author),
        "project": common.project(place),
        "object_attributes": _maybe_later(attributes, data),
        "labels": common.labels(shown.get("labels"), place.get("id")),
        "changes": data.more.get("changes", UNKNOWN),
        "repository": common.repository(place),
        **common.unless_empty("assignees", common.people(shown.get("assignees"))),
        **common.unless_empty("reviewers", common.reviewers(shown.get("reviewers"))),
    }


def merge_request_attributes(commit: Any, shown: Json, record: Json, place: Json) -> Json:
    """The attributes of a merge request, also in notes on it (`lib/gitlab/hook_data/merge_request_builder.rb`)."""
    same = shown.get("source_project_id") == place.get("id")
    return _work(shown, record) | {
        "blocking_discussions_resolved": known(shown, "blocking_discussions_resolved"),
        "detailed_merge_status": known(shown, "detailed_merge_status"),
        "draft": known(shown, "draft", "work_in_progress"),
        "first_contribution": known(shown, "first_contribution"),
        "head_pipeline_id": common.id_of(known(shown, "head_pipeline")),
        "last_commit": common.commit(commit),
        "merge_commit_sha": known(shown, "merge_commit_sha"),
        "merge_error": known(shown, "merge_error"),
        "merge_params": UNKNOWN,
        "merge_status": known(shown, "merge_status"),
        "merge_user_id": common.id_of(known(shown, "merge_user", "merged_by")),
        "merge_when_pipeline_succeeds": known(shown, "merge_when_pipeline_succeeds"),
        "prepared_at": when(known(shown, "prepared_at")),
        "reviewer_ids": common.ids(shown.get("reviewers")),
        "source": common.project(place) if same else UNKNOWN,
        "source_branch": known(shown, "source_branch"),
        "source_project_id": known(shown, "source_project_id"),
        "target": common.project(place),
        "target_branch": known(shown, "target_branch"),
        "target_project_id": known(shown, "target_project_id"),
        "work_in_progress": known(shown, "draft", "work_in_progress"),
    }


def _work(shown: Json, record: Json) -> Json:
    """The common attributes of issues and merge requests, from the record alone if there is no object."""
    spent = shown.get("time_stats") or {}
    return {
        "assignee_id": common.id_of(known(shown, "assignee")),
        "assignee_ids": common.ids(shown.get("assignees")),
        "author_id": common.id_of(known(shown, "author")),
        "created_at": when(known(shown, "created_at")),
        "description": known(shown, "description"),
        "human_time_change": UNKNOWN,
        "human_time_estimate": known(spent, "human_time_estimate"),
        "human_total_time_spent": known(spent, "human_total_time_spent"),
        "id": shown.get("id", record.get("target_id")),
        "iid": shown.get("iid", record.get("target_iid")),
        "labels": common.labels(shown.get("labels"), shown.get("project_id")),
        "last_edited_at": UNKNOWN,
        "last_edited_by_id": UNKNOWN,
        "milestone_id": common.id_of(known(shown, "milestone")),
        "state": known(shown, "state"),
        "state_id": _STATES.get(str(shown.get("state")), UNKNOWN),
        "time_change": UNKNOWN,
        "time_estimate": known(spent, "time_estimate"),
        "title": shown.get("title", record.get("target_title")),
        "total_time_spent": known(spent, "total_time_spent"),
        "updated_at": when(record.get("created_at") or known(shown, "updated_at")),
        "updated_by_id": UNKNOWN,
        "url": known(shown, "web_url"),
    }


def _action(data: SourceData) -> Any:
    """The webhook's action. The Events API says `opened` for a reopening too: the creation time decides."""
    if data.action != "open":
        return data.action
    created = data.object.get("created_at")
    return "open" if created is not None else Guess("open")


def milestone(data: SourceData) -> Json:
    """A milestone; data.object is `GET /projects/:id/milestones/:id`."""
    shown, record = data.object, data.record
    return {
        "object_kind": "milestone",
        "event_type": "milestone",
        "project": common.project(data.project),
        "object_attributes": {
            "id": shown.get("id", record.get("target_id")),
            "iid": shown.get("iid", record.get("target_iid")),
            "title": shown.get("title", record.get("target_title")),
            "description": known(shown, "description"),
            "state": {"create": "active", "reopen": "active", "close": "closed"}.get(
                data.action or "", known(shown, "state")
            ),
            "created_at": when(known(shown, "created_at")),
            "updated_at": when(record.get("created_at")),
            "due_date": known(shown, "due_date"),
            "start_date": known(shown, "start_date"),
            "group_id": known(shown, "group_id") if shown.get("group_id") else None,
            "project_id": known(shown, "project_id"),
        },
        "action": data.action,
    }


def wiki_page(data: SourceData) -> Json:
    """A wiki page; data.object is `GET /projects/:id/wikis/:slug`."""
    page = data.record.get("wiki_page") or {}
    shown, place = data.object, data.project
    slug = shown.get("slug") or page.get("slug")
    url = place.get("web_url")
    path = place.get("path_with_namespace")
    return {
        "object_kind": "wiki_page",
        "user": common.actor(data.author),
        "project": common.project(place),
        "wiki": {
            "web_url": f"{url}/-/wikis/home" if url else UNKNOWN,
            "git_ssh_url": _wiki_git(place.get("ssh_url_to_repo")),
            "git_http_url": _wiki_git(place.get("http_url_to_repo")),
            "path_with_namespace": f"{path}.wiki" if path else UNKNOWN,
            "default_branch": known(place, "default_branch"),
        },
        "object_attributes": {
            "title": shown.get("title") or page.get("title") or data.record.get("target_title"),
            "content": Guess(shown["content"]) if "content" in shown else UNKNOWN,  # as it is now
            "format": shown.get("format") or page.get("format") or UNKNOWN,
            "message": UNKNOWN,
            "slug": slug or UNKNOWN,
            "url": f"{url}/-/wikis/{slug}" if url and slug else UNKNOWN,
            "action": data.action,
            "diff_url": UNKNOWN,
            "version_id": UNKNOWN,
        },
    }


def _wiki_git(url: Any) -> Any:
    return f"{str(url).removesuffix('.git')}.wiki.git" if url else UNKNOWN


def note(data: SourceData) -> Json:
    """A comment; the record has all of it. data.more["noteable"] is the object that it is on."""
    comment = data.record.get("note") or data.object
    place, noteable = data.project, data.more.get("noteable")
    kind = str(comment.get("noteable_type") or "")
    confidential = bool(comment.get("confidential") or comment.get("internal"))
    on_commit = kind == "Commit"
    return {
        "object_kind": "note",
        "event_type": "confidential_note" if confidential else "note",
        "user": common.actor(comment.get("author") or data.author),
        "project_id": known(place, "id"),
        "project": common.project(place),
        "object_attributes": {
            "attachment": known(comment, "attachment"),
            "author_id": common.id_of(comment.get("author") or data.author or UNKNOWN),
            "change_position": UNKNOWN,
            "commit_id": known(comment, "commit_id"),
            "created_at": when(known(comment, "created_at")),
            "discussion_id": UNKNOWN,
            "id": known(comment, "id") if comment else data.record.get("target_id"),
            "internal": confidential,
            "line_code": UNKNOWN if comment.get("type") == "DiffNote" or on_commit else None,
            "note": known(comment, "body"),
            "noteable_id": None if on_commit else known(comment, "noteable_id"),
            "noteable_type": known(comment, "noteable_type"),
            "original_position": known(comment, "position") if comment.get("type") == "DiffNote" else None,
            "position": known(comment, "position") if comment.get("type") == "DiffNote" else None,
            "project_id": known(place, "id"),
            "resolved_at": when(comment.get("resolved_at")),
            "resolved_by_id": common.id_of(comment.get("resolved_by")),
            "resolved_by_push": UNKNOWN if comment.get("resolved_at") else None,
            "st_diff": UNKNOWN if on_commit else None,
            "system": comment.get("system", False),
            "type": known(comment, "type"),
            "updated_at": when(known(comment, "updated_at")),
            "updated_by_id": UNKNOWN if comment.get("updated_at") != comment.get("created_at") else None,
            "description": known(comment, "body"),
            "url": _note_url(noteable, kind, place, comment),
            "action": data.action,
        },
        "repository": common.repository(place),
        **_noteable(kind, noteable, place, data.more.get("commit")),
    }


_NOTEABLES = {
    "Issue": "issue",
    "WorkItem": "issue",
    "MergeRequest": "merge_request",
    "Commit": "commit",
    "Snippet": "snippet",
}


def _noteable(kind: str, shown: Any, place: Json, commit: Any) -> Json:
    name = _NOTEABLES.get(kind)
    if name is None:
        return {}
    if not isinstance(shown, dict):
        return {name: UNKNOWN}
    if name == "commit":
        return {name: common.commit(shown)}
    if name == "snippet":
        return {name: _snippet(shown, place)}
    if name == "merge_request":
        return {name: merge_request_attributes(commit, shown, {}, place)}
    return {name: issue_attributes(shown, {}, place)}


def _snippet(shown: Json, place: Json) -> Json:
    kept = ("id", "title", "description", "created_at", "updated_at", "file_name")
    return {field: when(known(shown, field)) for field in kept} | {
        "content": UNKNOWN,
        "author_id": common.id_of(known(shown, "author")),
        "project_id": known(place, "id"),
        "expires_at": None,
        "type": "ProjectSnippet",
        "visibility_level": common.VISIBILITY.get(str(shown.get("visibility")), UNKNOWN),
        "url": known(shown, "web_url"),
    }


def _note_url(noteable: Any, kind: str, place: Json, comment: Json) -> Any:
    url = dig(noteable, "web_url")
    if url is None and place.get("web_url") and comment.get("noteable_iid"):
        folder = {"Issue": "issues", "WorkItem": "work_items", "MergeRequest": "merge_requests"}.get(kind)
        url = folder and f"{place['web_url']}/-/{folder}/{comment['noteable_iid']}"
    return f"{url}#note_{comment['id']}" if url and comment.get("id") else UNKNOWN
