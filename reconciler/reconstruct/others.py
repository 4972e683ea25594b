"""Releases, feature flags, emoji, members."""

from __future__ import annotations

from typing import Any

from reconciler.events.identify import record_kind
from reconciler.reconstruct import parts
from reconciler.reconstruct.material import UNKNOWN, Json, Material, known
from reconciler.reconstruct.parts import when


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
            "links": [_link(link) for link in assets.get("links", [])],
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
    """An emoji that was awarded; material.more["noteable"] is what it was awarded to."""
    shown, place, noteable = material.record, material.project, material.more.get("noteable") or {}
    kind = str(shown.get("awardable_type") or "")
    name = {"Issue": "issue", "MergeRequest": "merge_request"}.get(kind)
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
            "awarded_on_url": known(noteable, "web_url"),
        },
        **({name: _awarded(noteable)} if name else {}),
    }


def _awarded(shown: Json) -> Any:
    if not shown:
        return UNKNOWN
    return {field: when(known(shown, field)) for field in ("id", "iid", "title", "state", "created_at", "updated_at")}


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
