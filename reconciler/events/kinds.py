"""The table of kinds: which webhook tells the same event as which Events API record.

This is gitlab-facts section 4 as data. `Mirrored` rows have a record on the Events API; everything else that
GitLab sends is in `UNMIRRORED` (kinds whose bodies carry their own time or an id used once) or has identity
from its own delivery only. To teach the program a new kind, add a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reconciler.events.sighting import OWN_KINDS, Precision
from reconciler.events.webhooks import known_actions

KeyForm = Literal["object", "object_and_user", "note", "push", "wiki_page", "member"]
"""How a key is built; one function for each in `keys`."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A webhook action that the Events API records too.

    `kind` is the webhook's `object_kind`, `actions` its action (None: the body has none). `record` is the
    record's `action_name`, as `RECORD_ACTIONS` spells it, and the word used in the key. `time` lists where
    the webhook tells when it happened (dotted paths, first one present wins); empty: it does not.
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
    # An approval need not touch the merge request's updated_at, which may then be days old: time of receipt.
    Mirrored("merge_request", ("approved", "approval"), "approved", "object_and_user", (), _RECEIVED_TIME),
    Mirrored("note", ("create", None), "commented", "note", _CREATED, _UNIQUE_ID),
    Mirrored("wiki_page", ("create",), "created", "wiki_page", (), _RECEIVED_TIME),
    Mirrored("wiki_page", ("update",), "updated", "wiki_page", (), _RECEIVED_TIME),
    Mirrored("wiki_page", ("delete",), "destroyed", "wiki_page", (), _RECEIVED_TIME),
    Mirrored("milestone", ("create",), "opened", "object", _CREATED, _GITLAB_TIME),
    Mirrored("milestone", ("reopen",), "opened", "object", _UPDATED, _GITLAB_TIME),
    Mirrored("milestone", ("close",), "closed", "object", _UPDATED, _GITLAB_TIME),
    Mirrored("milestone", ("delete",), "destroyed", "object", (), _RECEIVED_TIME),
    # Members of a project, told by system hooks. created_at is the membership's, or that of the request for it: of no
    # use for its end.
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
"""What a record's `action_name` says, in the words of the keys. `opened` may be a reopening."""

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
"""A record's `target_type`, as the key's first word. What is not here has no webhook to match."""

KEY_WORDS: dict[str, str] = {"work_item": "issue", "tag_push": "push"}
"""Kinds that share a key with another: a work item of type issue says `issue`, others `work_item`, and the
API may say either."""


@dataclass(frozen=True, slots=True)
class Unmirrored:
    """A kind that no Events API record mirrors.

    `id` says where its id stands, `action` where what happened to it stands, `time` where its own time stands;
    `untimed` is the precision of one that tells no time. Its key ends in a hash of the body, so that only
    byte-identical bodies are the same event; unless it is `listed`: then one of GitLab's lists shows it too
    (gitlab-facts, section 5), and the key is what a list can tell. `in_project`: the id is unique in its project
    only. A row with `only` goes before its kind's general one, for those actions.
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
    # What is gone was not changed by that: its updated_at is older.
    Unmirrored("member", "user_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("project", "project_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("subgroup", "group_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("group", "group_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("user", "user_id", _EVENT_NAME, (), _UNVERIFIED),
    Unmirrored("key", "id", _EVENT_NAME, (), _UNVERIFIED),
    # A person can fail to sign in twice within seconds, and a branch can be moved to and fro.
    Unmirrored("user", "user_id", _EVENT_NAME, (), _REPEATABLE, only=("user_failed_login",)),
    Unmirrored("repository_update", "project_id", (), (), _REPEATABLE),
    Unmirrored("gitlab_subscription_member_approval", "user_id", ("action",), ("updated_at",), _GITLAB_TIME),
    Unmirrored("gitlab_subscription_member_approvals", "user_id", ("action",), ("updated_at",), _GITLAB_TIME),
)
"""What group webhooks and system hooks tell of members, projects, groups and people, each known by its bytes."""

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
        # As with an approval: its updated_at may be days old, and the same for each of several.
        Unmirrored("merge_request", _OBJECT, _ACTION, (), _UNVERIFIED, only=("unapproved", "unapproval")),
        Unmirrored("milestone", _OBJECT, ("action",), _UPDATED, _GITLAB_TIME),
        Unmirrored("emoji", _OBJECT, _ACTION, _CREATED, _UNIQUE_ID, only=("award",), listed=True),
        Unmirrored("emoji", _OBJECT, _ACTION, _UPDATED, _GITLAB_TIME),
        # A pipeline that is run again ends again: its time tells which end. On its way it tells no time.
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
        # A release carries only when it was made: an edit, undone and done again, has the same bytes.
        Unmirrored("release", "tag", ("action",), (), _UNVERIFIED),
        # The same token is announced 60, 30 and 7 days before it ends, with the same bytes.
        Unmirrored("access_token", _OBJECT, _EVENT_NAME, (), _UNVERIFIED),
        Unmirrored("deploy_token", _OBJECT, _EVENT_NAME, (), _UNVERIFIED),
        # Its updated_at does not move when an issue is linked to it.
        Unmirrored("vulnerability", "object_attributes.url", ("object_attributes.state",), (), _UNVERIFIED),
        # Neither a time nor a change: on, off and on again within seconds looks like one event told twice.
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
    """Every kind that we know; a newer GitLab's webhooks and custom templates may bring others."""
    return frozenset(known_actions()) | set(OWN_KINDS)
