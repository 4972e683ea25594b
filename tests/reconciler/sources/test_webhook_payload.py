"""A record of which no body can be made, whatever the reason, is told as GitLab told it, and named."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.events.sighting import Identity, Precision, Sighting
from reconciler.events.times import Millis
from reconciler.events.unreadable import Unreadable
from reconciler.reconstruct import SourceData
from reconciler.sources.errors import Stopped
from reconciler.sources.webhook_payload import listed_sighting, raw_record, whole

RECORD = {"id": 7, "status": "success"}


def told(jobs: Any, failed: list[Unreadable]) -> Sighting:
    return listed_sighting(
        "pipelines",
        "7:success",
        Identity("pipeline:7:success", Millis(1), Precision.GITLAB_TIME),
        "pipeline",
        SourceData(record=RECORD, project={"id": 42}, more={"jobs": jobs}),
        gitlab_url="https://gitlab.example.com",
        failed=failed,
        name_in="id",
    )


def test_what_can_be_built_is_no_failure() -> None:
    failed: list[Unreadable] = []
    assert told([{"id": 1}], failed).headers["X-Gitlab-Event"] == "Pipeline Hook"
    assert failed == []


def test_what_can_t_be_built_is_told_and_named() -> None:
    failed: list[Unreadable] = []
    sighting = told([7], failed)
    assert (sighting.identity.key, sighting.summary.project_id) == ("pipeline:7:success", 42)
    assert raw_record(sighting) == RECORD
    assert sighting.recovery is not None
    assert sighting.recovery.unknown == ["*"]
    assert "X-Gitlab-Event" not in sighting.headers
    [named] = failed
    assert named.record_id == "7"
    assert named.error.startswith("AttributeError: ")
    assert "(ci.py:" in named.error


def test_details_that_can_t_be_put_together_leave_the_body_as_it_was() -> None:
    sighting = told([], [])

    def broken(_: Sighting) -> Sighting:
        raise KeyError("x")

    def stopped(_: Sighting) -> Sighting:
        raise Stopped("stopping")

    assert whole(sighting, broken) is sighting
    with pytest.raises(Stopped):
        whole(sighting, stopped)
