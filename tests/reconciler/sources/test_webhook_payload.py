"""A record of which no body can be made, whatever the reason, is told as GitLab told it, and named."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.events.sighting import Identity, Precision, Sighting
from reconciler.events.times import Millis
from reconciler.events.unreadable import Unreadable
from reconciler.reconstruct import SourceData
from reconciler.sources.errors import Stopped
from reconciler.sources.webhook_payload import listed_record, raw_record, to_webhook_payload_or_record, with_details

RECORD = {"id": 7, "status": "success"}


def told(jobs: Any, failed: list[Unreadable]) -> Sighting:
    data = SourceData(record=RECORD, project={"id": 42}, more={"jobs": jobs})
    identity = Identity("pipeline:7:success", Millis(1), Precision.GITLAB_TIME)
    bare = listed_record("pipelines", "7:success", identity, "pipeline", data)
    return to_webhook_payload_or_record(
        bare, "pipeline", data, gitlab_url="https://gitlab.example.com", failed=failed, name_in="id"
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


def test_details_that_can_t_be_put_together_are_left_out() -> None:
    sighting = told([], [])

    def broken(_: Sighting) -> Sighting:
        raise KeyError("x")

    def stopped(_: Sighting) -> Sighting:
        raise Stopped("stopping")

    assert with_details(sighting, broken) is None
    with pytest.raises(Stopped):
        with_details(sighting, stopped)
