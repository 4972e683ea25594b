"""The table of kinds: which webhook and which Events API record report the same event.

This is docs/gitlab.md, "Which webhook is which Events API record" as data. `Mirrored` rows have a record in the
Events API. Other kinds whose bodies
have a time or a unique id are in `UNMIRRORED`. Anything else is identified by its own delivery only. To add a kind,
add a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reconciler.events.sighting import OWN_KINDS, Precision
from reconciler.events.webhooks import known_actions

KeyForm = Literal["object", "object_and_user", "note", "push", "wiki_page", "member"]
"""How a key is built. `keys` has one function for each."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A webhook action that the Events API also records.

    `kind` is the webhook's `object_kind`, `actions` its action (None: the body has none). `record` is the
    record's `action_name`, as `RECORD_ACTIONS` spells it, and the word in the key. `time` lists where the webhook
    states its time (dotted paths, the first one present counts); empty if it states none.
    """

    kind: str
    actions: tuple[str | None, ...]
    record: str
    key_form: KeyForm
    time: tuple[str, ...]
    precision: Precision


_CREATED = ("object_attributes.created_at",)
_UPDATED = ("object_attributes.updated_at",)
_CHANGED = ("updated_at", "created_at")
_CLOSED = ("object_attributes.closed_at", "object_attributes.updated_at")
_UNIQUE_ID, _GITLAB_TIME, _RECEIVED_TIME = Precision.UNIQUE_ID, Precision.GITLAB_TIME, Precision.RECEIVED_TIME
_UNVERIFIED, _REPEATABLE = Precision.RECEIVED_UNVERIFIED, Precision.RECEIVED_REPEATABLE

MIRRORED: tuple[Mirrored, ...] = (
    Mirrored("push", (None,), "pushed", "push", (), _RECEIVED_TIME),
    Mirrored("tag_push", (None,), "pushed", "push", (), _RECEIVED_TIME),
    *(
        row
        for kind in ("issue", "work_item")
        for row in (
            Mirrored(kind, ("open",), "opened", "object", _CREATED, _GITLAB_TIME),
            Mirrored(kind, ("reopen",), "opened", "object", _UPDATED, _GITLAB_TIME),
            Mirrored(kind, ("close",), "closed", "object", _CLOSED, _GITLAB_TIME),
        )
    ),
    Mirrored("merge_request", ("open",), "opened", "object", _CREATED, _GITLAB_TIME),
    Mirrored("merge_request", ("reopen",), "opened", "object", _UPDATED, _GITLAB_TIME),
    Mirrored("merge_request", ("close",), "closed", "object", _UPDATED, _GITLAB_TIME),
    Mirrored("merge_request", ("merge",), "merged", "object", _UPDATED, _GITLAB_TIME),
    # An approval may leave the merge request's updated_at as it was, days old. So the time of receipt counts.
    Mirrored("merge_request", ("approved", "approval"), "approved", "object_and_user", (), _RECEIVED_TIME),
    Mirrored("note", ("create", None), "commented", "note", _CREATED, _UNIQUE_ID),
    Mirrored("wiki_page", ("create",), "created", "wiki_page", (), _RECEIVED_TIME),
    Mirrored("wiki_page", ("update",), "updated", "wiki_page", (), _RECEIVED_TIME),
    Mirrored("wiki_page", ("delete",), "destroyed", "wiki_page", (), _RECEIVED_TIME),
    Mirrored("milestone", ("create",), "opened", "object", _CREATED, _GITLAB_TIME),
    Mirrored("milestone", ("reopen",), "opened", "object", _UPDATED, _GITLAB_TIME),
    Mirrored("milestone", ("close",), "closed", "object", _UPDATED, _GITLAB_TIME),
    Mirrored("milestone", ("delete",), "destroyed", "object", (), _RECEIVED_TIME),
    # Members of a project, reported by system hooks. created_at is that of the membership or of the request for it,
    # so it does not tell when the membership ended.
    Mirrored("member", ("user_add_to_team",), "joined", "member", _CHANGED, _GITLAB_TIME),
    Mirrored("member", ("user_remove_from_team",), "left", "member", (), _RECEIVED_TIME),
)

RECORD_ACTIONS: dict[str, str] = {
    "pushed to": "pushed",
    "pushed new": "pushed",
    "deleted": "pushed",
    "opened": "opened",
    "reopened": "opened",
    "closed": "closed",
    "accepted": "merged",
    "approved": "approved",
    "commented on": "commented",
    "created": "created",
    "updated": "updated",
    "destroyed": "destroyed",
    "joined": "joined",
    "left": "left",
    "removed due to membership expiration from": "left",
}
"""A record's `action_name` as keys spell it. `opened` may be a reopening."""

RECORD_TARGETS: dict[str, str] = {
    "Issue": "issue",
    "WorkItem": "issue",
    "MergeRequest": "merge_request",
    "Milestone": "milestone",
    "Note": "note",
    "DiffNote": "note",
    "DiscussionNote": "note",
    "WikiPage::Meta": "wiki_page",
}
"""A record's `target_type` as the first word of the key. Types that are missing here have no webhook."""

KEY_WORDS: dict[str, str] = {"work_item": "issue", "tag_push": "push"}
"""Kinds that share their keys with another kind: the API may call any work item `issue` or `work_item`."""


@dataclass(frozen=True, slots=True)
class Unmirrored:
    """A kind without an Events API record.

    `id`, `action` and `time` are the paths of its id, action and time; `untimed` is its precision if the body states
    no time. Its key ends in a hash of the body, so that only byte-identical bodies are the same event. If it is
    `listed`, one of GitLab's lists shows it too
    (docs/gitlab.md, "Lists of other objects"), and the key has only what the list shows. `in_project`: the id is
    unique only in its project. A row with `only` takes precedence over its kind's general row, for those actions.
    """

    kind: str
    id: str
    action: tuple[str, ...]
    time: tuple[str, ...]
    precision: Precision
    only: tuple[str, ...] = ()
    untimed: Precision = Precision.RECEIVED_UNVERIFIED
    listed: bool = False
    in_project: bool = False


_OBJECT, _ACTION = "object_attributes.id", ("object_attributes.action",)
_EVENT_NAME = ("event_name",)

_FAMILIES: tuple[Unmirrored, ...] = (
    *(
        Unmirrored(kind, subject, _EVENT_NAME, _CHANGED, _GITLAB_TIME, only=changes)
        for kind, subject, changes in (
            (
                "member",
                "user_id",
                (
                    "user_add_to_group",
                    "user_update_for_group",
                    "user_update_for_team",
                    "user_access_request_to_group",
                    "user_access_request_to_project",
                ),
            ),
            ("project", "project_id", ("project_create", "project_rename", "project_transfer", "project_update")),
            ("subgroup", "group_id", ("subgroup_create",)),
            ("group", "group_id", ("group_create", "group_rename")),
            ("user", "user_id", ("user_create", "user_rename")),
            ("key", "id", ("key_create",)),
        )
    ),
    # A deletion does not change updated_at, which is older.
    Unmirrored("member", "user_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("project", "project_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("subgroup", "group_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("group", "group_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("user", "user_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("key", "id", _EVENT_NAME, (), _UNVERIFIED),
    # A sign-in can fail twice within seconds, and a branch can move back and forth.
    Unmirrored("user", "user_id", _EVENT_NAME, (), _REPEATABLE, only=("user_failed_login",)),
    Unmirrored("repository_update", "project_id", (), (), _REPEATABLE),
    Unmirrored("gitlab_subscription_member_approval", "user_id", ("action",), ("updated_at",), _GITLAB_TIME),
    Unmirrored("gitlab_subscription_member_approvals", "user_id", ("action",), ("updated_at",), _GITLAB_TIME),
)
"""Events of members, projects, groups and users from group webhooks and system hooks, identified by their bytes."""

UNMIRRORED: dict[tuple[str, str | None], Unmirrored] = {
    (row.kind, action): row
    for row in (
        *(
            row
            for kind in ("issue", "work_item", "merge_request", "note")
            for row in (
                Unmirrored(kind, _OBJECT, _ACTION, _UPDATED, _GITLAB_TIME, only=("update",), listed=True),
                Unmirrored(kind, _OBJECT, _ACTION, _UPDATED, _GITLAB_TIME),
            )
        ),
        # As with an approval: updated_at may be days old, and the same for several of them.
        Unmirrored("merge_request", _OBJECT, _ACTION, (), _UNVERIFIED, only=("unapproved", "unapproval")),
        Unmirrored("milestone", _OBJECT, ("action",), _UPDATED, _GITLAB_TIME),
        Unmirrored("emoji", _OBJECT, _ACTION, _CREATED, _UNIQUE_ID, only=("award",), listed=True),
        Unmirrored("emoji", _OBJECT, _ACTION, _UPDATED, _GITLAB_TIME),
        # A pipeline that is retried ends again: finished_at tells which end. Before its end it states no time.
        Unmirrored(
            "pipeline",
            _OBJECT,
            ("object_attributes.status",),
            ("object_attributes.finished_at",),
            _GITLAB_TIME,
            untimed=_UNIQUE_ID,
            listed=True,
        ),
        Unmirrored(
            "build",
            "build_id",
            ("build_status",),
            ("build_finished_at",),
            _GITLAB_TIME,
            untimed=_UNIQUE_ID,
            listed=True,
        ),
        Unmirrored("deployment", "deployment_id", ("status",), ("status_changed_at",), _UNIQUE_ID, listed=True),
        Unmirrored(
            "release",
            "tag",
            ("action",),
            ("created_at",),
            _GITLAB_TIME,
            only=("create",),
            listed=True,
            in_project=True,
        ),
        # A release states only its created_at: the same edit made twice has the same bytes.
        Unmirrored("release", "tag", ("action",), (), _UNVERIFIED),
        # The same token is announced 60, 30 and 7 days before it expires, with the same bytes.
        Unmirrored("access_token", _OBJECT, _EVENT_NAME, (), _UNVERIFIED),
        Unmirrored("deploy_token", _OBJECT, _EVENT_NAME, (), _UNVERIFIED),
        # Its updated_at does not change when an issue is linked to it.
        Unmirrored("vulnerability", "object_attributes.url", ("object_attributes.state",), (), _UNVERIFIED),
        # The body has neither a time nor the change: on, off and on again within seconds looks like one event twice.
        Unmirrored(
            "feature_flag",
            "object_attributes.name",
            ("object_attributes.active",),
            (),
            _REPEATABLE,
            listed=True,
            in_project=True,
        ),
        *_FAMILIES,
    )
    for action in (row.only or (None,))
}


def known_kinds() -> frozenset[str]:
    """Every known kind. A newer GitLab or a custom webhook template may send others."""
    return frozenset(known_actions()) | set(OWN_KINDS)
