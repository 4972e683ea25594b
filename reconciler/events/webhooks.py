"""GitLab's webhooks by kind: what each is about, and where its body says so.

From GitLab's documentation (`doc/user/project/integrations/webhook_events.md`, `doc/administration/
system_hooks.md`) and the code that builds the bodies (`lib/gitlab/data_builder/`, `lib/gitlab/hook_data/`). Times
depend on the action too, so they are in `events.kinds` with the rest of an event's identity.

A body names its kind in `object_kind`. Bodies of members, projects, groups, users and keys have an `event_name`
instead: the event's kind is then its family, and its action the `event_name`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reconciler.events.fields import dig, first_text, text, word

_USER = ("user.username", "user.name")
_PUSHER = ("user_username", "user_name")


@dataclass(frozen=True, slots=True)
class Webhook:
    """One kind of webhook. All paths are dotted; of several, the first that has a value counts.

    `gitlab_name` is its name in GitLab's documentation. `actions` are its possible actions; empty if it has none.
    `author` is where its author is; empty if GitLab does not name one. `object` has the kind of object that it is
    about, and where that object's id is. `project_url` is where a URL below the project is, for a body without the
    project's path.
    """

    kind: str
    gitlab_name: str
    actions: tuple[str, ...] = ()
    author: tuple[str, ...] = _USER
    title: tuple[str, ...] = ("object_attributes.title",)
    ref: tuple[str, ...] = ()
    object: tuple[tuple[str, str], ...] = ()
    project_id: tuple[str, ...] = ("project_id", "project.id", "object_attributes.project_id")
    project_path: tuple[str, ...] = ("project.path_with_namespace",)
    project_url: str | None = None


_EDITED = ("open", "close", "reopen", "update")
_STATUSES = (
    "created",
    "waiting_for_resource",
    "preparing",
    "waiting_for_callback",
    "pending",
    "running",
    "success",
    "failed",
    "canceling",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
)
_ABOUT = (
    ("issue", "issue.iid"),
    ("merge_request", "merge_request.iid"),
    ("commit", "commit.id"),
    ("snippet", "snippet.id"),
)
"""What a comment or an emoji is about: the object that has it."""
_NO_PROJECT: tuple[str, ...] = ()

WEBHOOKS: tuple[Webhook, ...] = (
    Webhook("push", "Push events", author=_PUSHER, title=(), ref=("ref",), object=(("ref", "ref"),)),
    Webhook("tag_push", "Tag events", author=_PUSHER, title=(), ref=("ref",), object=(("ref", "ref"),)),
    Webhook("issue", "Work item events", _EDITED, object=(("issue", "object_attributes.iid"),)),
    # All work items of a project share one numbering, and the API may call any of them an issue.
    Webhook("work_item", "Work item events", _EDITED, object=(("issue", "object_attributes.iid"),)),
    Webhook(
        "merge_request",
        "Merge request events",
        (*_EDITED, "approved", "unapproved", "approval", "unapproval", "merge"),
        ref=("object_attributes.source_branch",),
        object=(("merge_request", "object_attributes.iid"),),
        project_id=("project.id", "object_attributes.target_project_id"),
    ),
    Webhook("note", "Comment events", ("create", "update"), title=("object_attributes.note",), object=_ABOUT),
    Webhook(
        "wiki_page",
        "Wiki page events",
        ("create", "update", "delete"),
        object=(("wiki_page", "object_attributes.slug"),),
    ),
    Webhook(
        "pipeline",
        "Pipeline events",
        _STATUSES,
        title=("object_attributes.name",),
        ref=("object_attributes.ref",),
        object=(("pipeline", "object_attributes.id"),),
    ),
    # A job's events belong to its pipeline.
    Webhook(
        "build",
        "Job events",
        _STATUSES,
        title=("build_name",),
        ref=("ref",),
        object=(("pipeline", "pipeline_id"),),
    ),
    Webhook(
        "deployment",
        "Deployment events",
        ("created", "running", "success", "failed", "canceled", "skipped", "blocked"),
        title=("commit_title",),
        ref=("ref",),
        object=(("deployment", "deployment_id"),),
    ),
    Webhook(
        "feature_flag",
        "Feature flag events",
        ("true", "false"),
        title=("object_attributes.name",),
        object=(("feature_flag", "object_attributes.name"),),
    ),
    # Its body names the author of the tagged commit, not who made the release.
    Webhook(
        "release",
        "Release events",
        ("create", "update", "delete"),
        author=(),
        title=("name",),
        object=(("release", "tag"),),
    ),
    Webhook(
        "milestone",
        "Milestone events",
        ("create", "close", "reopen", "delete"),
        author=(),
        object=(("milestone", "object_attributes.iid"),),
    ),
    Webhook("emoji", "Emoji events", ("award", "revoke"), title=("object_attributes.name",), object=_ABOUT),
    Webhook(
        "access_token",
        "Project and group access token events",
        ("expiring_access_token",),
        author=(),
        title=("object_attributes.name",),
        object=(("access_token", "object_attributes.id"),),
    ),
    Webhook(
        "deploy_token",
        "Project and group deploy token events",
        ("expiring_deploy_token",),
        author=(),
        title=("object_attributes.name",),
        object=(("deploy_token", "object_attributes.id"),),
    ),
    # The body has neither an id nor the project's path: both are in its URL.
    Webhook(
        "vulnerability",
        "Vulnerability events",
        ("detected", "confirmed", "dismissed", "resolved"),
        author=(),
        object=(("vulnerability", "object_attributes.url"),),
        project_url="object_attributes.url",
    ),
    Webhook(
        "member",
        "Group member events; system hooks",
        (
            "user_add_to_team",
            "user_update_for_team",
            "user_remove_from_team",
            "user_access_request_to_project",
            "user_access_request_revoked_for_project",
            "user_add_to_group",
            "user_update_for_group",
            "user_remove_from_group",
            "user_access_request_to_group",
            "user_access_request_revoked_for_group",
            "user_access_request_denied_for_group",
        ),
        author=(),
        title=("user_username", "user_name"),
        object=(("member", "user_id"),),
        project_path=("project_path_with_namespace",),
    ),
    Webhook(
        "project",
        "Project events; system hooks",
        ("project_create", "project_destroy", "project_rename", "project_transfer", "project_update"),
        author=(),
        title=("name",),
        object=(("project", "project_id"),),
        project_id=("project_id",),
        project_path=("path_with_namespace",),
    ),
    Webhook(
        "subgroup",
        "Subgroup events",
        ("subgroup_create", "subgroup_destroy"),
        author=(),
        title=("full_path", "path"),
        object=(("group", "group_id"),),
        project_id=_NO_PROJECT,
        project_path=_NO_PROJECT,
    ),
    # System hooks use this name for subgroups too.
    Webhook(
        "group",
        "System hooks",
        ("group_create", "group_destroy", "group_rename"),
        author=(),
        title=("full_path", "path"),
        object=(("group", "group_id"),),
        project_id=_NO_PROJECT,
        project_path=_NO_PROJECT,
    ),
    Webhook(
        "user",
        "System hooks",
        ("user_create", "user_destroy", "user_rename", "user_failed_login"),
        author=(),
        title=("username", "name"),
        object=(("user", "user_id"),),
        project_id=_NO_PROJECT,
        project_path=_NO_PROJECT,
    ),
    Webhook(
        "key",
        "System hooks",
        ("key_create", "key_destroy"),
        author=(),
        title=("username",),
        object=(("key", "id"),),
        project_id=_NO_PROJECT,
        project_path=_NO_PROJECT,
    ),
    Webhook("repository_update", "System hooks", author=_PUSHER, title=()),
    Webhook(
        "gitlab_subscription_member_approval",
        "System hooks",
        ("enqueue",),
        author=(),
        title=(),
        object=(("user", "user_id"),),
        project_id=_NO_PROJECT,
    ),
    Webhook(
        "gitlab_subscription_member_approvals",
        "System hooks",
        ("approve", "deny"),
        author=(),
        title=(),
        object=(("user", "user_id"),),
        project_id=_NO_PROJECT,
    ),
)

RECORDS_ONLY: dict[str, tuple[str, ...]] = {
    "design": ("added", "updated", "removed", "destroyed"),
    "project": ("created", "imported"),
    "snippet": ("created", "updated"),
}
"""Kinds that only the Events API has, with the record's words for actions."""

_BY_KIND = {webhook.kind: webhook for webhook in WEBHOOKS}
_ANY = Webhook(
    "",
    "",
    author=(*_USER, *_PUSHER),
    title=("object_attributes.title", "object_attributes.name", "title", "name"),
    ref=("ref", "object_attributes.ref"),
    project_path=("project.path_with_namespace", "project_path_with_namespace"),
)
"""Where to read the body of an unknown kind: where most kinds have it."""

KIND_OF: dict[str, str] = {
    action: kind
    for kind in ("member", "project", "subgroup", "group", "user", "key", "access_token", "deploy_token")
    for action in _BY_KIND[kind].actions
}
"""The kind of each `event_name`."""


def known_actions() -> dict[str, frozenset[str]]:
    """Every known kind with its possible actions."""
    kinds: Iterable[str] = [*_BY_KIND, *RECORDS_ONLY]
    return {
        kind: frozenset(_BY_KIND[kind].actions if kind in _BY_KIND else ()) | set(RECORDS_ONLY.get(kind, ()))
        for kind in kinds
    }


def webhook_of(kind: str) -> Webhook:
    """The row of a kind; for an unknown kind, the places that most kinds use."""
    return _BY_KIND.get(kind, _ANY)


def kind_of(body: dict[str, Any]) -> str:
    """The kind of a body: its `object_kind`, or the family of its `event_name`."""
    event_name = text(body.get("event_name"))
    return text(body.get("object_kind")) or KIND_OF.get(event_name or "", event_name) or "unknown"


def object_of(kind: str, body: dict[str, Any]) -> str | None:
    """The object's name, unique in its project, like `issue/12`; None if the body names none.

    Comments and emoji are about the object that has them.
    """
    for name, path in webhook_of(kind).object:
        found = word(dig(body, path))
        if found is not None:
            return f"{name}/{found}"
    return None


def project_path_of(kind: str, body: dict[str, Any], instance: str | None) -> str | None:
    """The project's path, like `group/project`. `instance` is GitLab's base URL from the webhook's headers."""
    webhook = webhook_of(kind)
    path = first_text(body, *webhook.project_path)
    if path is not None or webhook.project_url is None:
        return path
    address = first_text(body, webhook.project_url)
    base = (instance or "").rstrip("/") + "/"
    if address is None or not address.startswith(base) or base == "/":
        return None
    return address.removeprefix(base).partition("/-/")[0] or None
