"""Releases, feature flags, emoji, members."""

from __future__ import annotations

from reconciler.events.api_record_sighting import record_kind
from reconciler.reconstruct import common
from reconciler.reconstruct.common import when
from reconciler.reconstruct.source_data import UNKNOWN, Guess, Json, SourceData, known
from reconciler.reconstruct.work import issue_attributes, merge_request_attributes


def release(data: SourceData) -> Json:
    """A release that was created; the list shows all of it but its id."""
    shown, place = data.record, data.project
    tag, url = shown.get("tag_name"), place.get("web_url")
    assets = shown.get("assets") or {}
    return {
        "id": UNKNOWN,
        "created_at": when(known(shown, "created_at")),
        "description": known(shown, "description"),
        "name": known(shown, "name"),
        "released_at": when(known(shown, "released_at")),
        "tag": tag,
        "object_kind": "release",
        "project": common.project(place),
        "url": f"{url}/-/releases/{tag}" if url else UNKNOWN,
        "action": data.action,
        "assets": {
            "count": known(assets, "count"),
            "links": [_link(link) for link in assets.get("links") or []],
            "sources": known(assets, "sources"),
        },
        "commit": common.commit(shown.get("commit")),
    }


def _link(shown: Json) -> Json:
    return {
        "id": known(shown, "id"),
        "external": known(shown, "external") if "external" in shown else UNKNOWN,
        "link_type": known(shown, "link_type"),
        "name": known(shown, "name"),
        "url": known(shown, "url"),
    }


def feature_flag(data: SourceData) -> Json:
    """A feature flag in its current state. The API shows neither its id nor who switched it."""
    shown = data.record
    return {
        "object_kind": "feature_flag",
        "project": common.project(data.project),
        "user": UNKNOWN,
        "user_url": UNKNOWN,
        "object_attributes": {
            "id": UNKNOWN,
            "name": known(shown, "name"),
            "description": known(shown, "description"),
            "active": known(shown, "active"),
        },
    }


def emoji(data: SourceData) -> Json:
    """An emoji; data.more["noteable"] is the object that has it, or whose comment has it."""
    shown, place, noteable = data.record, data.project, data.more.get("noteable") or {}
    url, on_note = noteable.get("web_url"), shown.get("awardable_type") == "Note"
    if url and on_note:
        url = f"{url}#note_{shown.get('awardable_id')}"
    return {
        "object_kind": "emoji",
        "event_type": data.action,
        "user": common.actor(data.author),
        "project_id": known(place, "id"),
        "project": common.project(place),
        "object_attributes": {
            "user_id": known(data.author, "id"),
            "created_at": when(known(shown, "created_at")),
            "id": known(shown, "id"),
            "name": known(shown, "name"),
            "awardable_type": known(shown, "awardable_type"),
            "awardable_id": known(shown, "awardable_id"),
            "updated_at": when(known(shown, "updated_at")),
            "action": data.action,
            "awarded_on_url": url or UNKNOWN,
        },
        **({"note": UNKNOWN} if on_note else {}),
        **_noteable(noteable, place),
    }


def _noteable(shown: Json, place: Json) -> Json:
    """The issue or merge request in its current state."""
    if not shown:
        return {}
    if "source_branch" in shown:
        return {"merge_request": Guess(merge_request_attributes(None, shown, {}, place))}
    return {"issue": Guess(issue_attributes(shown, {}, place))}


def member(data: SourceData) -> Json:
    """A member who joined or left, as in a system hook. GitLab's project webhooks don't report members."""
    record, place = data.record, data.project
    name = {"joined": "user_add_to_team"}.get(str(record.get("action_name")), "user_remove_from_team")
    who = data.author
    return {
        "event_name": name,
        "created_at": when(known(record, "created_at")),
        "updated_at": when(known(record, "created_at")),
        "project_name": known(place, "name"),
        "project_path": known(place, "path"),
        "project_path_with_namespace": known(place, "path_with_namespace"),
        "project_id": known(place, "id"),
        "user_username": known(who, "username"),
        "user_name": known(who, "name"),
        "user_email": UNKNOWN,
        "user_id": known(record, "author_id"),
        "access_level": UNKNOWN,
        "project_visibility": known(place, "visibility"),
    }


def other(data: SourceData) -> Json:
    """An event without a webhook: the record's data under names of our own."""
    return {
        "object_kind": record_kind(data.record),
        "event_name": str(data.record.get("action_name")),
        "user": common.actor(data.author),
        "project": common.project(data.project),
        "object_attributes": {
            "id": known(data.record, "target_id"),
            "iid": known(data.record, "target_iid"),
            "title": known(data.record, "target_title"),
            "created_at": when(known(data.record, "created_at")),
            "action": str(data.record.get("action_name")),
        },
    }
