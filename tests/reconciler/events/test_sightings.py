"""The table of kinds: both sides of one event compute the same key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reconciler.events import keys, times
from reconciler.events.api_record_sighting import record_sighting
from reconciler.events.kinds import MIRRORED
from reconciler.events.sighting import Precision, Sighting
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.simulator.world import World
from tests.conftest import PAYLOADS

NOW = times.from_iso("2026-11-24T12:00:00Z")


def webhook(body: dict[str, Any], **more: Any) -> Sighting:
    given: dict[str, Any] = {
        "source": "webhook:default",
        "source_id": "key",
        "event_uuid": None,
        "seen_at": NOW,
        "headers": {},
        "project_ids": {},
    }
    return webhook_sighting(body, payload=json.dumps(body), **(given | more))


def recorded(name: str) -> Sighting:
    return webhook(json.loads((PAYLOADS / name).read_text()))


@pytest.mark.parametrize(
    ("file", "key", "precision"),
    [
        ("go-playground+webhooks/push-event.json",
         "push:15:refs/heads/master:95790bf891e76fee5e1747ab589903a6a1f80f22:da1560886d4f094c3e6c9ef40349f7d38b5d27d7",
         Precision.RECEIVED_TIME),
        ("drone+go-scm/branch_create.json",
         f"push:4861503:refs/heads/feature:{'0' * 40}:c4c79227ed610f1151f05bbc5be33b4f340d39c8",
         Precision.RECEIVED_TIME),
        ("drone+go-scm/tag_delete.json",
         f"push:4861503:refs/tags/v1.0.0:2adc9465c4edfc33834e173fe89436a7cb899a1d:{'0' * 40}",
         Precision.RECEIVED_TIME),
        ("drone+go-scm/issue_create.json", "issue:8131350:opened", Precision.GITLAB_TIME),
        ("drone+go-scm/issue_reopen.json", "issue:8131350:opened", Precision.GITLAB_TIME),
        ("drone+go-scm/issue_closed.json", "issue:8131350:closed", Precision.GITLAB_TIME),
        ("drone+go-scm/pull_request_create.json", "merge_request:6632669:opened", Precision.GITLAB_TIME),
        ("drone+go-scm/pull_request_merge.json", "merge_request:6632669:merged", Precision.GITLAB_TIME),
        ("go-playground+webhooks/comment-commit-event.json", "note:1243", Precision.UNIQUE_ID),
        ("go-playground+webhooks/wikipage-event.json", "wiki_page:root/awesome-project:awesome:created",
         Precision.RECEIVED_TIME),
        ("go-playground+webhooks/system-team-member-added.json", "member:74:41:joined", Precision.GITLAB_TIME),
        ("go-playground+webhooks/system-team-member-removed.json", "member:74:41:left", Precision.RECEIVED_TIME),
    ],
)  # fmt: skip
def test_recorded_payloads(file: str, key: str, precision: Precision) -> None:
    identity = recorded(file).identity
    assert (identity.key, identity.precision) == (key, precision)


def test_the_time_is_gitlab_s_own_where_it_states_one() -> None:
    assert recorded("drone+go-scm/issue_create.json").identity.happened_at == times.from_iso("2017-12-10T16:37:38Z")
    assert recorded("drone+go-scm/issue_reopen.json").identity.happened_at == times.from_iso("2017-12-10T16:41:55Z")
    assert recorded("go-playground+webhooks/push-event.json").identity.happened_at == NOW


@pytest.mark.parametrize(
    "file",
    ["xanzy+go-gitlab/resource_access_token_project.json"],
)  # fmt: skip
def test_what_no_record_mirrors_is_known_by_its_bytes(file: str) -> None:
    body = json.loads((PAYLOADS / file).read_text())
    key = webhook(body).identity.key
    assert webhook(body, source_id="other").identity.key == key
    assert webhook(body | {"extra": 1}).identity.key != key


@pytest.mark.parametrize(
    ("file", "key", "precision"),
    [
        ("drone+go-scm/issue_edited.json", "issue:8131350:update", Precision.GITLAB_TIME),
        ("go-playground+webhooks/pipeline-event.json", "pipeline:31:success", Precision.GITLAB_TIME),
        ("go-playground+webhooks/job-event.json", "build:1977:created", Precision.UNIQUE_ID),
        ("xanzy+go-gitlab/deployment.json", "deployment:15:success", Precision.UNIQUE_ID),
        ("xanzy+go-gitlab/feature_flag.json", "feature_flag:1:test-feature-flag:true", Precision.RECEIVED_REPEATABLE),
        ("xanzy+go-gitlab/release.json", "release:327622:1.0.0:create", Precision.GITLAB_TIME),
    ],
)
def test_what_a_list_shows_has_the_list_s_key(file: str, key: str, precision: Precision) -> None:
    identity = recorded(file).identity
    assert (identity.key, identity.precision) == (key, precision)


@pytest.mark.parametrize(
    "body", [{}, {"text": "a template"}, {"object_kind": "strange", "id": 1}, {"object_kind": 3}]
)
def test_what_is_not_known_has_identity_of_its_own(body: dict[str, Any]) -> None:
    assert webhook(body).identity.key == "webhook:default:key"
    assert webhook(body).identity.precision is Precision.RECEIVED_REPEATABLE


def test_without_a_key_a_delivery_is_known_by_event_uuid_and_body_together() -> None:
    first, second = {"object_kind": "note", "n": 1}, {"object_kind": "note", "n": 2}
    idents = {webhook(body, source_id=None, event_uuid="u").source_id for body in (first, second)}
    assert len(idents) == 2
    assert webhook(first, source_id=None, event_uuid="u").source_id in idents
    nameless = {webhook(first, source_id=None, event_uuid=None).source_id for _ in range(3)}
    assert len(nameless) == 3  # nothing says that these are one


def test_a_project_that_is_only_named_is_looked_up() -> None:
    body = json.loads((PAYLOADS / "go-playground+webhooks/wikipage-event.json").read_text())
    known = webhook(body, project_ids={"root/awesome-project": 7})
    assert (known.summary.project_id, known.identity.key) == (7, "wiki_page:7:awesome:created")


def test_both_sides_of_everything_that_is_mirrored_agree() -> None:
    """Every row of the table: the simulated webhook and record of one happening have one key."""
    world = World(seed=3)
    world.clock = lambda: NOW
    world.add_project(42, "group/project")
    head = world.push(42).webhook
    assert head is not None
    world.push(42)
    world.delete_ref(42, "refs/heads/main")
    world.tag(42, "v1")
    issue, item = world.issue(42), world.issue(42, kind="work_item")
    for action in ("close", "reopen"):
        world.issue_does(42, issue, action)
        world.issue_does(42, item, action, kind="work_item")
    request, milestone = world.merge_request(42), world.milestone(42)
    for action in ("close", "reopen", "approved", "approval", "merge"):
        world.merge_request_does(42, request, action)
    for action in ("close", "reopen"):
        world.milestone_does(42, milestone, action)
    world.note(42)
    world.note(42, with_action=False)
    for action in ("create", "update", "delete"):
        world.wiki(42, "home", action)
    told = set()
    for happening in world.happenings:
        assert happening.webhook is not None
        assert happening.record is not None
        hook = webhook(happening.webhook)
        record = record_sighting(
            happening.record, payload="{}", project_id=42, project_path="group/project", seen_at=NOW
        )
        assert hook.identity.key == record.identity.key, happening.what
        told.add((happening.webhook["object_kind"], hook.summary.action))
    in_table = {(row.kind, action) for row in MIRRORED for action in row.actions}
    only_elsewhere = {("milestone", "delete"), ("member", "user_add_to_team"), ("member", "user_remove_from_team")}
    assert in_table - told == only_elsewhere


@pytest.mark.parametrize(
    "record",
    [
        {"action_name": "pushed to", "push_data": {"ref": None, "ref_count": 9, "ref_type": "branch"}},
        {"action_name": "created", "target_type": None},
        {"action_name": "added", "target_type": "DesignManagement::Design", "target_id": 4},
        {"action_name": "something new", "target_type": "Issue", "target_id": 5},
        {"action_name": None, "target_type": 7},
    ],
)
def test_records_without_a_webhook_are_events_of_their_own(record: dict[str, Any]) -> None:
    full = {"id": 99, "created_at": "2026-11-24T10:00:00.000Z", **record}
    found = record_sighting(full, payload=json.dumps(full), project_id=42, project_path=None, seen_at=NOW)
    assert found.identity.key == "project_events:99"


def test_a_record_without_id_or_time_is_kept() -> None:
    found = record_sighting({}, payload="{}", project_id=42, project_path=None, seen_at=NOW)
    assert found.source_id.startswith("sha256:")
    assert found.identity.happened_at == NOW


@pytest.mark.parametrize(
    "when", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", "", None]
)
@pytest.mark.parametrize(
    ("kind", "action", "precision"),
    [
        ("issue", "open", Precision.RECEIVED_TIME),
        ("issue", "close", Precision.RECEIVED_TIME),
        ("issue", "update", Precision.RECEIVED_UNVERIFIED),
        ("note", "create", Precision.UNIQUE_ID),
    ],
)
def test_a_time_that_can_t_be_true_counts_as_none(
    kind: str, action: str, precision: Precision, when: str | None
) -> None:
    stated = dict.fromkeys(("created_at", "updated_at", "closed_at"), when)
    identity = webhook({"object_kind": kind, "object_attributes": {"id": 77, "action": action, **stated}}).identity
    assert (identity.happened_at, identity.precision) == (NOW, precision)


def test_precisions_of_older_versions_are_read_by_their_new_names() -> None:
    old = ["once", "stated", "received", "alone", "loose", "estimated", "guessed"]
    assert [Precision(name) for name in old] == [
        Precision.UNIQUE_ID,
        Precision.GITLAB_TIME,
        Precision.RECEIVED_TIME,
        Precision.RECEIVED_UNVERIFIED,
        Precision.RECEIVED_REPEATABLE,
        Precision.ESTIMATED_TIME,
        Precision.ESTIMATED_UNVERIFIED,
    ]
    assert len(old) == len(Precision)
    assert Precision("of a later version") is Precision.RECEIVED_REPEATABLE


def test_a_key_has_no_nul() -> None:
    """SQLite's functions see nothing of a text after it: such a sighting would not be found again."""
    assert keys.bounded("push:1:a\x00b") == "push:1:a\ufffdb"
