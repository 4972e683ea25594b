"""Which object an event is about: the issue, the merge request, the branch. Deliveries can be ordered by it."""

from __future__ import annotations

from typing import Any

from reconciler.events.fields import dig, word

_PATHS: dict[str, tuple[str, str]] = {
    "issue": ("issue", "object_attributes.iid"),
    "work_item": ("issue", "object_attributes.iid"),
    "merge_request": ("merge_request", "object_attributes.iid"),
    "milestone": ("milestone", "object_attributes.iid"),
    "pipeline": ("pipeline", "object_attributes.id"),
    "build": ("pipeline", "pipeline_id"),  # a job's events belong to its pipeline's
    "deployment": ("deployment", "deployment_id"),
    "release": ("release", "tag"),
    "push": ("ref", "ref"),
    "tag_push": ("ref", "ref"),
    "wiki_page": ("wiki_page", "object_attributes.slug"),
    "feature_flag": ("feature_flag", "object_attributes.name"),
    "member": ("member", "user_id"),
    "access_token": ("access_token", "object_attributes.id"),
    "vulnerability": ("vulnerability", "object_attributes.url"),
}
_ABOUT = (
    ("issue", "issue.iid"),
    ("merge_request", "merge_request.iid"),
    ("commit", "commit.id"),
    ("snippet", "snippet.id"),
)
"""What a comment or an emoji may be about."""


def object_of(kind: str, body: dict[str, Any]) -> str | None:
    """The object's name, unique in its project, like `issue/12`; None where the body names none.

    A comment, and an emoji, are about what they were put on.
    """
    paths = _ABOUT if kind in ("note", "emoji") else (_PATHS[kind],) if kind in _PATHS else ()
    for name, path in paths:
        found = word(dig(body, path))
        if found is not None:
            return f"{name}/{found}"
    return None
