"""What GitLab's builders write today, letter by letter: which keys there are, how a time is written.

The keys were read in GitLab's source: `lib/gitlab/hook_data/` and `lib/gitlab/data_builder/`.
"""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.reconstruct import SourceData, rebuild
from reconciler.reconstruct.rebuild import Rebuilt

PLACE = {"id": 42, "path_with_namespace": "g/p", "web_url": "https://gitlab.example.com/g/p"}
RECORD = {"target_id": 5, "created_at": "2026-11-24T10:00:00.000Z"}
WORK = """
    assignee_id assignee_ids author_id created_at description human_time_change human_time_estimate
    human_total_time_spent id iid labels last_edited_at last_edited_by_id milestone_id state state_id time_change
    time_estimate title total_time_spent updated_at updated_by_id url
"""
ISSUE = f"""{WORK} closed_at confidential customer_relations_contacts discussion_locked due_date duplicated_to_id
    health_status moved_to_id project_id relative_position severity start_date type weight"""
REQUEST = f"""{WORK} blocking_discussions_resolved detailed_merge_status draft first_contribution head_pipeline_id
    last_commit merge_commit_sha merge_error merge_params merge_status merge_user_id merge_when_pipeline_succeeds
    prepared_at reviewer_ids source source_branch source_project_id target target_branch target_project_id
    work_in_progress"""
ISSUABLE = "object_kind event_type user project object_attributes labels changes repository"
PIPELINE = """before_sha created_at detailed_status duration finished_at id iid name protected_ref queued_duration ref
    ref_status_name sha source stages status tag url variables"""
JOB_OF_PIPELINE = """allow_failure artifacts_file created_at duration environment failure_reason finished_at id manual
    name queued_duration runner stage started_at status user when"""
JOB = """before_sha build_allow_failure build_created_at build_created_at_iso build_duration build_failure_reason
    build_finished_at build_finished_at_iso build_id build_name build_queued_duration build_stage build_started_at
    build_started_at_iso build_status commit environment object_kind pipeline_id project project_id project_name ref
    repository retries_count runner sha tag user"""
COMMIT = "id message title timestamp url author"
PERSON = "id name username avatar_url email"
ADA = {"id": 3, "name": "Ada", "username": "ada", "avatar_url": None}


def words(text: str, *more: str) -> set[str]:
    return {*text.split(), *more}


def issue(**shown: Any) -> Rebuilt:
    return rebuild("issue", SourceData(record=RECORD, project=PLACE, action="update", object={"id": 5, **shown}))


def request(**shown: Any) -> Rebuilt:
    data = SourceData(record=RECORD, project=PLACE, action="update", object={"id": 5, **shown})
    return rebuild("merge_request", data)


def job(**shown: Any) -> dict[str, Any]:
    return rebuild("build", SourceData(record={"id": 9, "status": "success", **shown}, project=PLACE)).body


def pipeline(**shown: Any) -> dict[str, Any]:
    more = {"jobs": [{"id": 9}], "commit": None}
    return rebuild("pipeline", SourceData(record={"id": 7}, project=PLACE, object=shown, more=more)).body


def test_the_keys_of_issues() -> None:
    told = issue(type="ISSUE", assignees=[])
    assert set(told.body) == words(ISSUABLE)
    assert set(told.body["object_attributes"]) == words(ISSUE, "action")
    assert {f"object_attributes.{name}" for name in ("weight", "health_status", "start_date")} <= set(told.unknown)
    shown = issue(type="ISSUE", weight=3, health_status="at_risk", assignees=[ADA])
    assert set(shown.body) == words(ISSUABLE, "assignees")
    attributes = shown.body["object_attributes"]
    assert (attributes["weight"], attributes["health_status"]) == (3, "at_risk")
    incident = issue(type="INCIDENT").body["object_attributes"]
    assert set(incident) == words(ISSUE, "action", "escalation_status", "escalation_policy")


def test_the_keys_of_merge_requests() -> None:
    told = request(assignees=[], reviewers=[])
    assert set(told.body) == words(ISSUABLE)
    assert set(told.body["object_attributes"]) == words(REQUEST, "action")
    asked = request(assignees=[ADA], reviewers=[ADA])
    assert set(asked.body) == words(ISSUABLE, "assignees", "reviewers")
    assert set(asked.body["assignees"][0]) == words(PERSON)
    assert set(asked.body["reviewers"][0]) == words(PERSON, "state", "re_requested")
    assert {"reviewers[].state", "reviewers[].re_requested"} <= set(asked.unknown)


def test_the_keys_of_what_a_comment_stands_on() -> None:
    for kind, name, keys in (("Issue", "issue", ISSUE), ("MergeRequest", "merge_request", REQUEST)):
        note = {"id": 1, "noteable_type": kind, "body": "x"}
        told = rebuild("note", SourceData(record={"note": note}, project=PLACE, more={"noteable": {"id": 5}}))
        assert set(told.body[name]) == words(keys)


def test_the_keys_of_pipelines_and_jobs() -> None:
    told = pipeline(source="push")
    assert set(told["object_attributes"]) == words(PIPELINE)
    assert set(told["builds"][0]) == words(JOB_OF_PIPELINE)
    assert "source_pipeline" not in told
    assert "source_pipeline" in pipeline(source="parent_pipeline")
    assert set(job()) == words(JOB)
    assert set(job(pipeline={"id": 7, "source": "pipeline"})) == words(JOB, "source_pipeline")


def test_a_commit_says_when_it_was_committed_in_its_own_zone() -> None:
    shown = {
        "id": "1a", "authored_date": "2017-12-01T00:00:00.000-08:00", "created_at": "2017-12-10T08:28:36.000-08:00",
        "committed_date": "2017-12-10T08:28:36.000-08:00",
    }  # fmt: skip
    data = SourceData(record={"id": 7}, project=PLACE, object={}, more={"commit": shown})
    commit = rebuild("pipeline", data).body["commit"]
    assert set(commit) == words(COMMIT)
    assert commit["timestamp"] == "2017-12-10T08:28:36-08:00"


def test_an_annotated_tag_is_at_the_commit_that_it_tags() -> None:
    record = {
        "push_data": {"ref": "v1", "ref_type": "tag", "commit_from": None, "commit_to": "7a9", "commit_count": 1}
    }
    known = rebuild("tag_push", SourceData(record=record, project=PLACE, more={"commits": [{"id": "c0ffee"}]}))
    assert (known.body["after"], known.body["checkout_sha"]) == ("7a9", "c0ffee")
    alone = rebuild("tag_push", SourceData(record=record, project=PLACE))
    assert (alone.body["checkout_sha"], "checkout_sha" in alone.unknown) == ("7a9", True)


def test_a_job_s_times_are_written_in_both_ways() -> None:
    told = job(created_at="2021-02-23T02:41:37.886Z", started_at=None)
    assert (told["build_created_at"], told["build_created_at_iso"]) == (
        "2021-02-23 02:41:37 UTC",
        "2021-02-23T02:41:37Z",
    )
    assert (told["build_started_at"], told["build_started_at_iso"]) == (None, None)


@pytest.mark.parametrize(
    ("shown", "written"),
    [
        ("ISSUE", "Issue"), ("INCIDENT", "Incident"), ("TASK", "Task"), ("TEST_CASE", "Test Case"),
        ("REQUIREMENT", "Requirement"), ("OBJECTIVE", "Objective"), ("KEY_RESULT", "Key Result"),
    ],
)  # fmt: skip
def test_a_type_is_written_as_people_see_it(shown: str, written: str) -> None:
    assert issue(type=shown).body["object_attributes"]["type"] == written
    assert issue(issue_type=shown.lower()).body["object_attributes"]["type"] == written


def test_an_emoji_on_a_comment_is_at_the_comment() -> None:
    award = {"id": 1, "name": "rocket", "awardable_type": "Note", "awardable_id": 77, "user": ADA}
    noteable = {"id": 5, "web_url": "https://gitlab.example.com/g/p/-/merge_requests/2", "source_branch": "topic"}
    told = rebuild("emoji", SourceData(record=award, project=PLACE, action="award", more={"noteable": noteable}))
    url = "https://gitlab.example.com/g/p/-/merge_requests/2#note_77"
    assert told.body["object_attributes"]["awarded_on_url"] == url
    assert set(told.body["merge_request"]) == words(REQUEST)
    assert {"note", "merge_request"} <= set(told.unknown)
