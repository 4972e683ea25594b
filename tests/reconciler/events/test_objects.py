"""Which object an event is about, by the bodies that others recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.events.webhook_sighting import summarise
from reconciler.events.webhooks import object_of
from tests.conftest import PAYLOADS


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("go-playground+webhooks/push-event.json", "ref/refs/heads/master"),
        ("go-playground+webhooks/tag-event.json", "ref/refs/tags/v1.0.0"),
        ("go-playground+webhooks/issue-event.json", "issue/23"),
        ("go-playground+webhooks/comment-issue-event.json", "issue/17"),
        ("go-playground+webhooks/merge-request-event.json", "merge_request/1"),
        ("go-playground+webhooks/comment-merge-request-event.json", "merge_request/1"),
        ("go-playground+webhooks/comment-commit-event.json", "commit/cfe32cf61b73a0d5e9f13e774abde7ff789b1660"),
        ("go-playground+webhooks/comment-snippet-event.json", "snippet/53"),
        ("go-playground+webhooks/pipeline-event.json", "pipeline/31"),
        ("go-playground+webhooks/build-event.json", None),  # an old GitLab's, without pipeline_id
        ("go-playground+webhooks/job-event.json", "pipeline/2366"),
        ("go-playground+webhooks/deployment-event.json", "deployment/15"),
        ("go-playground+webhooks/release-event.json", "release/v1.1"),
        ("xanzy+go-gitlab/feature_flag.json", "feature_flag/test-feature-flag"),
    ],
)
def test_recorded_bodies(file: str, wanted: str | None) -> None:
    body = json.loads((PAYLOADS / file).read_text())
    assert summarise(body, 1).object == wanted


PARTS = st.sampled_from(["issue", "iid", "ref", "object_attributes"])
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(PARTS, inner),
)


@given(st.sampled_from(["note", "issue", "push", "x"]), BODIES)
def test_any_body_has_an_object_or_none(kind: str, body: Any) -> None:
    found = object_of(kind, body if isinstance(body, dict) else {})
    assert found is None or "/" in found
