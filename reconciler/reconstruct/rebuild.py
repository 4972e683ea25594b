"""Rebuilds a webhook payload with the builder of its kind, and gives it its `X-Gitlab-Event`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from reconciler.reconstruct import ci, others, pushes, work
from reconciler.reconstruct.source_data import Json, SourceData, remove_markers

BUILDERS: dict[str, tuple[Callable[[SourceData], Json], str | None]] = {
    "push": (pushes.push, "Push Hook"),
    "tag_push": (pushes.push, "Tag Push Hook"),
    "issue": (work.issue, "Issue Hook"),
    "work_item": (work.issue, "Issue Hook"),
    "merge_request": (work.merge_request, "Merge Request Hook"),
    "note": (work.note, "Note Hook"),
    "milestone": (work.milestone, "Milestone Hook"),
    "wiki_page": (work.wiki_page, "Wiki Page Hook"),
    "pipeline": (ci.pipeline, "Pipeline Hook"),
    "build": (ci.build, "Job Hook"),
    "deployment": (ci.deployment, "Deployment Hook"),
    "release": (others.release, "Release Hook"),
    "feature_flag": (others.feature_flag, "Feature Flag Hook"),
    "emoji": (others.emoji, "Emoji Hook"),
    "member": (others.member, "System Hook"),
}


class Rebuilt(msgspec.Struct, frozen=True):
    """A rebuilt webhook payload. `unknown` are the paths of the fields that are null or a guess."""

    body: Json
    unknown: list[str]
    hook_event: str | None
    """`X-Gitlab-Event`; None if GitLab has no such webhook."""


def rebuild(kind: str, data: SourceData) -> Rebuilt:
    """Rebuild the body of GitLab's webhook of this kind, as far as the data has it."""
    builder, hook_event = BUILDERS.get(kind, (others.other, None))
    body, unknown = remove_markers(builder(data))
    if str(body.get("event_type") or "").startswith("confidential_"):
        hook_event = f"Confidential {hook_event}"
    return Rebuilt(body, list(dict.fromkeys(unknown)), hook_event)
