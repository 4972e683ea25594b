"""Finds a record's kind and action, and gets the details that its webhook payload needs."""

from __future__ import annotations

from typing import Any

from reconciler.events import times
from reconciler.events.api_record_sighting import record_kind
from reconciler.events.fields import dig, text
from reconciler.events.times import MINUTE
from reconciler.reconstruct import SourceData
from reconciler.sources import answers
from reconciler.sources.details import Details
from reconciler.sources.source import Project

ACTIONS: dict[str, str] = {
    "opened": "open",
    "reopened": "reopen",
    "closed": "close",
    "accepted": "merge",
    "approved": "approved",
    "commented on": "create",
    "created": "create",
    "updated": "update",
    "destroyed": "delete",
}
"""A webhook's action for each `action_name` of a record."""

REOPENED_AFTER = times.Millis(2 * MINUTE)
"""An object that is `opened` this long after its creation was reopened: the API says `opened` for both
(docs/gitlab.md, "The Events API")."""


def source_data_of(record: dict[str, Any], project: Project, details: Details | None) -> tuple[str, SourceData]:
    """The webhook's kind, and the data to rebuild its body from. Without `details` GitLab is not asked."""
    kind = record_kind(record)
    found: Any = None
    more: dict[str, Any] = {}
    if details is not None:
        found, more = _ask(kind, record, details)
    shown: dict[str, Any] = found if isinstance(found, dict) else {}
    action = ACTIONS.get(str(record.get("action_name")))
    if action == "open" and _long_after(record.get("created_at"), shown.get("created_at")):
        action = "reopen"
    if kind == "milestone" and action == "open":
        action = "create"
    return kind, SourceData(record=record, project=project.shown, action=action, object=shown, more=more)


def _ask(kind: str, record: dict[str, Any], details: Details) -> tuple[Any, dict[str, Any]]:
    """Get the object itself, and what belongs to it."""
    iid, push_data = record.get("target_iid"), record.get("push_data")
    match kind:
        case "push" | "tag_push" if text(dig(push_data, "ref")):
            before, after = text(dig(push_data, "commit_from")), text(dig(push_data, "commit_to"))
            return None, {"commits": details.commits(before, after, is_tag=kind == "tag_push")}
        case "issue":
            return details.issue(iid), {}
        case "merge_request":
            shown = details.merge_request(iid)
            return shown, {"commit": details.commit(dig(shown, "sha"))}
        case "milestone":
            return details.get(f"/milestones/{record.get('target_id')}", answers.Milestone), {}
        case "wiki_page" if (slug := text(dig(record, "wiki_page.slug"))) and record.get(
            "action_name"
        ) != "destroyed":
            return details.page(slug), {}
        case "note" if isinstance(note := record.get("note"), dict):
            noteable = details.noteable(note)
            of_request = note.get("noteable_type") == "MergeRequest"
            commit = details.commit(dig(noteable, "sha")) if of_request else None
            return None, {"noteable": noteable, "commit": commit}
        case _:
            return None, {}


def _long_after(later: Any, earlier: Any) -> bool:
    end, start = times.parse(later), times.parse(earlier)
    return end is not None and start is not None and end - start > REOPENED_AFTER
