"""Releases, feature flags, emoji, members."""

from __future__ import annotations

from reconciler.events.identify import record_kind
from reconciler.reconstruct import parts
from reconciler.reconstruct.parts import when
from reconciler.reconstruct.source_data import UNKNOWN, Guess, Json, Material, known
from reconciler.reconstruct.work import issue_attributes, merge_request_attributes


def release(material: Material) -> Json:
    """A release that was made: the list shows it whole, but for its id."""
    shown, place = material.record, material.project
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
        "project": parts.project(place),
        "url": f"{url}/-/releases/{tag}" if url else UNKNOWN,
        "action": material.action,
        "assets": {
            "count": known(assets, "count"),
            "links": [_link(link) for link in assets.get("links") or []],
            "sources": known(assets, "sources"),
        },
        "commit": parts.commit(shown.get("commit")),
    }


def _link(shown: Json) -> Json:
    return {
        "id": known(shown, "id"),
        "external": known(shown, "external") if "external" in shown else UNKNOWN,
        "link_type": known(shown, "link_type"),
        "name": known(shown, "name"),
        "url": known(shown, "url"),
    }


def feature_flag(material: Material) -> Json:
    """A feature flag as it is now: neither who switched it nor its id is told."""
    shown = material.record
    return {
        "object_kind": "feature_flag",
        "project": parts.project(material.project),
        "user": UNKNOWN,
        "user_url": UNKNOWN,
        "object_attributes": {
            "id": UNKNOWN,
            "name": known(shown, "name"),
            "description": known(shown, "description"),
            "active": known(shown, "active"),
        },
    }


def emoji(material: Material) -> Json:
    """An emoji; material.more["noteable"] is what it was awarded to, or what the comment stands on that it was."""
    shown, place, noteable = material.record, material.project, material.more.get("noteable") or {}
    url, on_note = noteable.get("web_url"), shown.get("awardable_type") == "Note"
    if url and on_note:
        url = f"{url}#note_{shown.get('awardable_id')}"
    return {
        "object_kind": "emoji",
        "event_type": material.action,
        "user": parts.actor(material.author),
        "project_id": known(place, "id"),
        "project": parts.project(place),
        "object_attributes": {
            "user_id": known(material.author, "id"),
            "created_at": when(known(shown, "created_at")),
            "id": known(shown, "id"),
            "name": known(shown, "name"),
            "awardable_type": known(shown, "awardable_type"),
            "awardable_id": known(shown, "awardable_id"),
            "updated_at": when(known(shown, "updated_at")),
            "action": material.action,
            "awarded_on_url": url or UNKNOWN,
        },
        **({"note": UNKNOWN} if on_note else {}),
        **_noteable(noteable, place),
    }


def _noteable(shown: Json, place: Json) -> Json:
    """The issue or the merge request, which is as it is now."""
    if not shown:
        return {}
    if "source_branch" in shown:
        return {"merge_request": Guess(merge_request_attributes(None, shown, {}, place))}
    return {"issue": Guess(issue_attributes(shown, {}, place))}


def member(material: Material) -> Json:
    """A member who came or went, as system hooks tell it. GitLab's project webhooks tell of none."""
    record, place = material.record, material.project
    name = {"joined": "user_add_to_team"}.get(str(record.get("action_name")), "user_remove_from_team")
    who = material.author
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


def other(material: Material) -> Json:
    """What has no webhook to be like: GitLab's record of it, under names of its own."""
    return {
        "object_kind": record_kind(material.record),
        "event_name": str(material.record.get("action_name")),
        "user": parts.actor(material.author),
        "project": parts.project(material.project),
        "object_attributes": {
            "id": known(material.record, "target_id"),
            "iid": known(material.record, "target_iid"),
            "title": known(material.record, "target_title"),
            "created_at": when(known(material.record, "created_at")),
            "action": str(material.record.get("action_name")),
        },
    }
