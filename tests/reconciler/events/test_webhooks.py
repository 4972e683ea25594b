"""Where each kind of webhook says what it is about: a body of every kind against what we read of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.events.webhooks import KIND_OF, WEBHOOKS
from reconciler.forwarding.filters import make_filter
from reconciler.ledger.queue.routes import Candidate
from tests.conftest import PAYLOADS

BODIES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[2] / "data" / "documented.json").read_text())
RECORDED = {str(file.relative_to(PAYLOADS)): json.loads(file.read_text()) for file in PAYLOADS.glob("*/*.json")}
INSTANCE = "https://gitlab.example.com"
NOW = times.from_iso("2026-11-25T12:00:00Z")
CHANGED, RECEIPT = "2026-11-24T09:30:00.000Z", times.iso(NOW)
SITE, NONE = (50, "acme/site"), (None, None)


def read(body: dict[str, Any], **more: Any) -> Sighting:
    given: dict[str, Any] = {
        "payload": json.dumps(body),
        "source": "webhook:default",
        "source_id": "key",
        "event_uuid": None,
        "seen_at": NOW,
        "headers": {"X-Gitlab-Instance": INSTANCE},
        "project_ids": {},
    }
    return webhook_sighting(body, **(given | more))


# What each body says: kind, action, project, author, object, title, and when it happened.
IN_PROJECT = {
    "push": ("push", None, "ada", "ref/refs/heads/main", "Mend it", RECEIPT),
    "push by a system hook": ("push", None, "Ada Lovelace", "ref/refs/heads/main", None, RECEIPT),
    "tag_push": ("tag_push", None, "Ada Lovelace", "ref/refs/tags/v1", None, RECEIPT),
    "issue": ("issue", "open", "ada", "issue/23", "Slow pages", "2026-11-20T08:00:00.000Z"),
    "work_item: task": ("work_item", "close", "ada", "issue/23", "Slow pages", CHANGED),
    "note": ("note", "update", "ada", "issue/23", "Looks good", CHANGED),
    "merge_request": ("merge_request", "approved", "ada", "merge_request/1", "Faster", RECEIPT),
    "wiki_page": ("wiki_page", "update", "ada", "wiki_page/home", "Home", RECEIPT),
    "pipeline": ("pipeline", "success", "ada", "pipeline/31", "Deploy", CHANGED),
    "build": ("build", "failed", "ada", "pipeline/31", "test", CHANGED),
    "deployment": ("deployment", "running", "ada", "deployment/15", "Add a page", CHANGED),
    "feature_flag": ("feature_flag", "false", "ada", "feature_flag/dark-mode", "dark-mode", RECEIPT),
    "release": ("release", "create", None, "release/v1.1", "v1.1", CHANGED),
    "milestone of a project": ("milestone", "close", None, "milestone/10", "v1.0", CHANGED),
    "emoji on an issue": ("emoji", "award", "ada", "issue/23", "thumbsup", CHANGED),
    "emoji on a comment": ("emoji", "revoke", "ada", "merge_request/1", "thumbsup", CHANGED),
    "access_token of a project": (
        "access_token", "expiring_access_token", None, "access_token/25", "deploys", RECEIPT),
    "deploy_token of a project": ("deploy_token", "expiring_deploy_token", None, "deploy_token/26", "pulls", RECEIPT),
    "vulnerability": (
        "vulnerability", "confirmed", None, "vulnerability/https://gitlab.example.com/acme/site/-/security/"
        "vulnerabilities/1", "A library that can be made to wait", RECEIPT),
    "repository_update": ("repository_update", None, "Ada Lovelace", None, None, RECEIPT),
    **{
        name: ("member", name, None, "member/7", "grace", at)
        for name, at in (
            ("user_add_to_team", CHANGED),
            ("user_update_for_team", CHANGED),
            ("user_remove_from_team", RECEIPT),
            ("user_access_request_to_project", CHANGED),
            ("user_access_request_revoked_for_project", RECEIPT),
        )
    },
    **{
        name: ("project", name, None, "project/50", "Site", at)
        for name, at in (
            ("project_create", CHANGED),
            ("project_destroy", RECEIPT),
            ("project_rename", CHANGED),
            ("project_transfer", CHANGED),
            ("project_update", CHANGED),
        )
    },
}  # fmt: skip
OF_NO_PROJECT = {
    "work_item: epic": ("work_item", "update", "ada", "issue/23", "Slow pages", CHANGED),
    "milestone of a group": ("milestone", "create", None, "milestone/10", "v1.0", "2026-11-20T08:00:00.000Z"),
    "access_token of a group": (
        "access_token", "expiring_access_token", None, "access_token/25", "deploys", RECEIPT),
    "deploy_token of a group": ("deploy_token", "expiring_deploy_token", None, "deploy_token/26", "pulls", RECEIPT),
    **{
        name: ("member", name, None, "member/7", "grace", at)
        for name, at in (
            ("user_add_to_group", CHANGED),
            ("user_update_for_group", CHANGED),
            ("user_remove_from_group", RECEIPT),
            ("user_access_request_to_group", CHANGED),
            ("user_access_request_denied_for_group", RECEIPT),
            ("user_access_request_revoked_for_group", RECEIPT),
        )
    },
    "subgroup_create": ("subgroup", "subgroup_create", None, "group/11", "acme/web", CHANGED),
    "subgroup_destroy": ("subgroup", "subgroup_destroy", None, "group/11", "acme/web", RECEIPT),
    "group_create": ("group", "group_create", None, "group/11", "acme/web", CHANGED),
    "group_destroy": ("group", "group_destroy", None, "group/11", "acme/web", RECEIPT),
    "group_rename": ("group", "group_rename", None, "group/11", "acme/web", CHANGED),
    "user_create": ("user", "user_create", None, "user/7", "grace", CHANGED),
    "user_destroy": ("user", "user_destroy", None, "user/7", "grace", RECEIPT),
    "user_rename": ("user", "user_rename", None, "user/7", "grace", CHANGED),
    "user_failed_login": ("user", "user_failed_login", None, "user/7", "grace", RECEIPT),
    "key_create": ("key", "key_create", None, "key/4", "grace", CHANGED),
    "key_destroy": ("key", "key_destroy", None, "key/4", "grace", RECEIPT),
    "gitlab_subscription_member_approval": (
        "gitlab_subscription_member_approval", "enqueue", None, "user/7", None, CHANGED),
    "gitlab_subscription_member_approvals": (
        "gitlab_subscription_member_approvals", "deny", None, "user/7", None, CHANGED),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_every_kind_says_what_it_is_about(name: str) -> None:
    found = read(BODIES[name])
    about = found.summary
    expected = IN_PROJECT.get(name) or OF_NO_PROJECT[name]
    assert (about.project_id, about.project_path) == (SITE if name in IN_PROJECT else NONE)
    happened_at = times.iso(found.identity.happened_at)
    assert (about.kind, about.action, about.author, about.object, about.title, happened_at) == expected


def test_every_kind_and_every_event_name_has_a_body() -> None:
    told = {(about.kind, about.action) for about in (read(body).summary for body in BODIES.values())}
    assert {kind for kind, _ in told} == {webhook.kind for webhook in WEBHOOKS}
    assert {(kind, name) for name, kind in KIND_OF.items()} <= told


def test_no_recorded_body_says_what_the_table_does_not_know() -> None:
    actions = {webhook.kind: {None, *webhook.actions} for webhook in WEBHOOKS}
    for name, body in RECORDED.items():
        about = read(body).summary
        assert about.action in actions[about.kind], name


def test_a_vulnerability_s_path_is_below_the_instance_wherever_that_is() -> None:
    body = BODIES["vulnerability"]
    attributes = body["object_attributes"]

    def path(url: Any, instance: str | None) -> str | None:
        headers = {} if instance is None else {"X-Gitlab-Instance": instance}
        return read(body | {"object_attributes": attributes | {"url": url}}, headers=headers).summary.project_path

    url = "https://x.example/gitlab/acme/web/site/-/security/vulnerabilities/1"
    assert path(url, "https://x.example/gitlab") == "acme/web/site"
    assert path(url, "https://x.example/gitlab/") == "acme/web/site"
    assert path(url, "https://y.example") is None
    assert path(url, None) is None
    assert path(None, "https://x.example") is None


def lets_through(body: dict[str, Any], **wanted: Any) -> bool:
    found = read(body)
    destination = Destination.model_validate({"name": "d", "filter": wanted})
    return make_filter(destination)(Candidate(found.summary, found.source, lambda: found.payload))


EVERY = [*BODIES.values(), *RECORDED.values()]


@pytest.mark.parametrize("kind", sorted({*KIND_OF.values()} - {"access_token", "deploy_token"}))
def test_a_filter_takes_a_whole_family(kind: str) -> None:
    family = [body for body in EVERY if KIND_OF.get(body.get("event_name", "")) == kind]
    assert family
    assert [body for body in EVERY if lets_through(body, kinds=[kind])] == family


@pytest.mark.parametrize("name", sorted(KIND_OF))
@pytest.mark.parametrize("key", ["kinds", "actions"])
def test_a_filter_takes_one_event_name(key: str, name: str) -> None:
    members = [body for body in EVERY if body.get("event_name") == name]
    assert members
    assert [body for body in EVERY if lets_through(body, **{key: [name]})] == members


@pytest.mark.parametrize("project", [50, "acme/site", "acme/*"])
def test_a_filter_by_project_loses_nothing_of_it(project: int | str) -> None:
    through = [name for name, body in BODIES.items() if lets_through(body, projects=[project])]
    assert through == [name for name in BODIES if name in IN_PROJECT]
