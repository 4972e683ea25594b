"""The sources that read GitLab's lists: what each tells, and what it costs."""

from __future__ import annotations

import json

import pytest

from reconciler.events.sighting import Precision, Sighting
from reconciler.events.times import DAY, HOUR, MINUTE, SECOND, Millis
from reconciler.events.webhook_sighting import webhook_sighting
from reconciler.simulator.world import Happening
from reconciler.sources.listing import SLICE
from reconciler.sources.table import SOURCES, subscribed
from tests.reconciler.sources.conftest import NOW, Scene


def by_webhook(happening: Happening) -> Sighting:
    assert happening.webhook is not None
    return webhook_sighting(
        happening.webhook,
        payload=json.dumps(happening.webhook),
        source="webhook:default",
        source_id="x",
        event_uuid=None,
        seen_at=Millis(happening.at),
        headers={},
        project_ids={},
    )


def same(told: Sighting, happening: Happening) -> bool:
    """Whether the source's identity is the webhook's: one key, near in time."""
    other = by_webhook(happening)
    near = abs(told.identity.happened_at - other.identity.happened_at) < MINUTE
    return told.identity.key == other.identity.key and (near or told.identity.precision is Precision.UNIQUE_ID)


class TestPipelines:
    def test_the_state_it_is_in(self, scene: Scene) -> None:
        pipeline = scene.world.new_pipeline(42)
        scene.world.pipeline_becomes(42, pipeline, "running")
        scene.later(5 * MINUTE)
        last = scene.world.pipeline_becomes(42, pipeline, "success")
        [told] = scene.read("pipelines", NOW - HOUR)
        assert same(told, last)
        [whole] = scene.complete("pipelines", [told])
        body = json.loads(whole.payload)
        assert body["object_attributes"]["finished_at"] == "2026-11-24 12:05:00 UTC"
        assert [build["name"] for build in body["builds"]] == ["build", "test"]
        assert whole.identity == told.identity
        assert whole.headers["X-Gitlab-Event"] == "Pipeline Hook"

    def test_an_end_is_known_by_when_it_was(self, scene: Scene) -> None:
        """A later touch of a finished pipeline is not another end of it."""
        pipeline = scene.world.new_pipeline(42)
        scene.world.pipeline_becomes(42, pipeline, "success")
        [first] = scene.complete("pipelines", scene.read("pipelines", NOW - HOUR))
        scene.later(3 * HOUR)
        scene.world.projects[42].pipelines[pipeline]["updated_at"] = "2026-11-24T15:00:00.000Z"
        [again] = scene.complete("pipelines", scene.read("pipelines", NOW + HOUR))
        assert (again.source_id, again.identity) == (first.source_id, first.identity)

    def test_an_end_that_can_t_be_true_is_none(self, scene: Scene) -> None:
        """Importers write `0001-01-01`: the webhook is judged in the same way."""
        pipeline = scene.world.new_pipeline(42)
        scene.world.pipeline_becomes(42, pipeline, "success")
        scene.world.projects[42].pipelines[pipeline]["finished_at"] = "0001-01-01T00:00:00Z"
        [told] = scene.complete("pipelines", scene.read("pipelines", NOW - HOUR))
        assert told.identity.happened_at == NOW

    def test_a_pipeline_that_went_on_meanwhile_keeps_what_the_list_showed(self, scene: Scene) -> None:
        pipeline = scene.world.new_pipeline(42)
        scene.world.pipeline_becomes(42, pipeline, "running")
        told = scene.read("pipelines", NOW - HOUR)
        scene.world.pipeline_becomes(42, pipeline, "success")
        [whole] = scene.complete("pipelines", told)
        assert whole.summary.action == "running"

    def test_a_merge_request_s_pipeline_is_of_its_branch(self, scene: Scene) -> None:
        """As in GitLab's webhook; its API tells `refs/merge-requests/1/head`."""
        request = scene.world.merge_request(42)
        last = scene.world.pipeline_becomes(42, scene.world.new_pipeline(42, request), "success")
        told = scene.read("pipelines", NOW - HOUR)
        assert told[0].summary.ref is None
        [whole] = scene.complete("pipelines", told)
        assert last.webhook is not None
        body = json.loads(whole.payload)
        assert (whole.summary.ref, body["object_attributes"]["ref"]) == ("topic", "topic")
        assert body["object_attributes"]["ref"] == last.webhook["object_attributes"]["ref"]
        assert (body["merge_request"]["iid"], body["merge_request"]["source_branch"]) == (request.iid, "topic")

    def test_one_request_for_a_quiet_project(self, scene: Scene) -> None:
        scene.world.pipeline(42)
        scene.later(DAY)
        before = scene.asked
        assert scene.read("pipelines", scene.now - MINUTE) == []
        assert scene.asked - before == 1


class TestJobs:
    def test_those_of_pipelines_that_changed(self, scene: Scene) -> None:
        pipeline = scene.world.new_pipeline(42)
        first, second = scene.world.jobs_of(42, pipeline)
        ended = [scene.world.job_becomes(42, first, "success"), scene.world.job_becomes(42, second, "failed")]
        scene.world.pipeline_becomes(42, pipeline, "failed")
        told = scene.read("jobs", NOW - HOUR)
        assert [same(s, h) for s, h in zip(told, ended, strict=True)] == [True, True]
        assert [s.summary.action for s in told] == ["success", "failed"]

    def test_a_pipeline_s_jobs_are_not_asked_for_again(self, scene: Scene) -> None:
        scene.world.pipeline(42)
        scene.read("jobs", NOW - HOUR)
        before = scene.asked
        assert scene.read("jobs", NOW - MINUTE) == []
        assert scene.asked - before == 1
        assert len(scene.read("jobs", NOW - 2 * HOUR)) == 2  # from further back: not all of that was read


def test_deployments(scene: Scene) -> None:
    deployment = scene.world.new_deployment(42)
    scene.later(MINUTE)
    last = scene.world.deployment_becomes(42, deployment, "success")
    [told] = scene.read("deployments", NOW - HOUR)
    assert same(told, last)
    assert json.loads(told.payload)["environment"] == "production"


def test_releases(scene: Scene) -> None:
    scene.later(-3 * DAY)
    scene.world.release(42, "v1")
    scene.now = NOW
    made = scene.world.release(42, "v2")
    scene.world.release(42, "v2", "update")
    [told] = scene.read("releases", NOW - HOUR)
    assert same(told, made)
    assert told.summary.action == "create"


def test_feature_flags(scene: Scene) -> None:
    scene.later(-DAY)
    scene.world.switch_flag(42, "old")
    scene.now = NOW
    scene.world.switch_flag(42, "new")
    switched = scene.world.switch_flag(42, "new")
    [told] = scene.read("feature_flags", NOW - HOUR)
    assert same(told, switched)
    assert told.recovery is not None
    assert "user" in told.recovery.unknown


class TestEdits:
    @pytest.mark.parametrize("edit", ["title", "label"])
    def test_an_edit_of_an_issue(self, scene: Scene, edit: str) -> None:
        issue = scene.world.issue(42)
        scene.later(10 * MINUTE)
        edited = scene.world.issue_does(42, issue, "update", edit=edit)
        [told] = scene.read("issues", NOW - HOUR)
        assert same(told, edited)
        assert edited.webhook is not None
        assert told.summary.author == edited.webhook["user"]["username"]
        if edit == "label":
            changes = json.loads(told.payload)["changes"]["labels"]
            assert [label["title"] for label in changes["current"]] == ["bug"]
            assert changes["previous"] == []

    def test_opening_closing_and_comments_are_no_edits(self, scene: Scene) -> None:
        issue = scene.world.issue(42)
        for action in ("close", "reopen"):
            scene.later(10 * MINUTE)
            scene.world.issue_does(42, issue, action)
        scene.later(10 * MINUTE)
        scene.world.note(42, "a word", on=issue)
        assert scene.read("issues", NOW - HOUR) == []

    def test_an_edit_without_a_trace_is_told_without_what_it_was(self, scene: Scene) -> None:
        issue = scene.world.issue(42)
        scene.later(10 * MINUTE)
        edited = scene.world.issue_does(42, issue, "update", edit="silent")
        [told] = scene.read("issues", NOW - HOUR)
        assert same(told, edited)
        assert told.recovery is not None
        assert {"user", "changes"} <= set(told.recovery.unknown)

    def test_one_save_is_one_event(self, scene: Scene) -> None:
        scene.world.people = scene.world.people[:1]
        issue = scene.world.issue(42)
        scene.later(10 * MINUTE)
        scene.world.issue_does(42, issue, "update", edit="title")
        scene.later(SECOND)
        scene.world.issue_does(42, issue, "update", edit="label")  # its label event is written a second later
        scene.later(MINUTE)
        scene.world.issue_does(42, issue, "update", edit="title")
        assert len(scene.read("issues", NOW - HOUR)) == 2

    def test_a_push_to_a_merge_request(self, scene: Scene) -> None:
        request = scene.world.merge_request(42)
        scene.later(10 * MINUTE)
        pushed = scene.world.merge_request_does(42, request, "update", edit="push")
        [told] = scene.read("merge_requests", NOW - HOUR)
        assert same(told, pushed)
        assert json.loads(told.payload)["object_attributes"]["oldrev"] == request.versions[0]["head_commit_sha"]

    def test_many_comments_in_a_minute_explain_it_all_the_same(self, scene: Scene) -> None:
        """A comment moves a merge request's time at most once a minute: the one that did may be pages back."""
        request = scene.world.merge_request(42)
        scene.later(10 * MINUTE)
        for _ in range(250):
            scene.world.note(42, on=request)
            scene.later(SECOND // 5)
        assert scene.read("merge_requests", NOW - HOUR) == []

    def test_something_that_was_deleted_meanwhile(self, scene: Scene) -> None:
        scene.world.issue(42)
        scene.later(10 * MINUTE)
        scene.world.issue_does(42, next(iter(scene.world.projects[42].things["issues"].values())), "update")
        endings = ("notes", "award_emoji", "resource_label_events", "resource_milestone_events")
        scene.gitlab.api.faults.forbidden_paths = {f"/{ending}": 404 for ending in endings}
        [told] = scene.read("issues", NOW - HOUR)
        assert told.summary.action == "update"

    def test_a_comment_that_was_edited(self, scene: Scene) -> None:
        request = scene.world.merge_request(42)
        note = scene.world.note(42, on=request)
        scene.later(10 * MINUTE)
        edited = scene.world.edit_note(42, note)
        [told] = scene.read("merge_requests", NOW - HOUR)
        assert same(told, edited)
        assert edited.webhook is not None
        assert json.loads(told.payload)["object_attributes"]["note"] == edited.webhook["object_attributes"]["note"]

    def test_an_emoji_on_a_comment_is_no_edit_of_it(self, scene: Scene) -> None:
        request = scene.world.merge_request(42)
        note = scene.world.note(42, on=request)
        scene.later(10 * MINUTE)
        awarded = scene.world.emoji(42, note)
        scene.world.merge_request_does(42, request, "close")
        [told] = scene.read("merge_requests", NOW - HOUR)
        assert same(told, awarded)

    def test_an_emoji_on_an_issue_is_found_when_the_issue_changes(self, scene: Scene) -> None:
        issue = scene.world.issue(42)
        scene.later(10 * MINUTE)
        awarded = scene.world.emoji(42, issue)
        assert len(scene.read("issues", NOW + MINUTE)) == 0
        scene.later(MINUTE)
        scene.world.issue_does(42, issue, "close")
        told = [s for s in scene.read("issues", NOW - HOUR) if s.summary.kind == "emoji"]
        assert same(told[0], awarded)

    def test_what_was_read_as_it_is_now_is_not_read_again(self, scene: Scene) -> None:
        issue = scene.world.issue(42)
        scene.later(10 * MINUTE)
        scene.world.issue_does(42, issue, "update")
        assert len(scene.read("issues", NOW - HOUR)) == 1
        before = scene.asked
        assert scene.read("issues", NOW) == []
        assert scene.asked - before == 1
        scene.later(10 * MINUTE)
        scene.world.issue_does(42, issue, "update")
        assert len(scene.read("issues", NOW)) == 2


def test_a_long_window_goes_by_slices(scene: Scene) -> None:
    moments = [Millis(NOW - n * 20 * DAY) for n in range(10, 0, -1)]
    for scene.now in moments:
        scene.world.pipeline(42)
    scene.now = NOW
    told = scene.read("pipelines", NOW - 300 * DAY, NOW)
    assert [s.identity.happened_at for s in told] == moments
    assert scene.gitlab.api.requests["/api/v4/projects/42/pipelines"] == -(-300 * DAY // SLICE)


def test_many_pages(scene: Scene) -> None:
    for _ in range(250):
        scene.world.pipeline(42)
        scene.later(SECOND)
    assert len({s.source_id for s in scene.read("pipelines", NOW - HOUR)}) == 250


def test_what_a_webhook_is_subscribed_to_decides_what_is_asked() -> None:
    assert subscribed(["push_events"]) == ["hook_log", "project_events"]
    assert subscribed(["push_events", "job_events"]) == ["hook_log", "project_events", "jobs"]
    assert subscribed(["note_events"]) == ["hook_log", "project_events", "issues", "merge_requests"]
    assert subscribed([t for entry in SOURCES for t in entry.triggers]) == [entry.name for entry in SOURCES]
