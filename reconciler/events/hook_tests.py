"""Tells test webhooks, which GitLab sends on request, from real ones.

GitLab builds the body of a `push_events` test from the newest commits of the default branch, and names the oldest of
them as `before` (`Gitlab::DataBuilder::Push.build_sample`). A real push never lists its `before` commit. So the body
itself proves the test. A project without commits is tested with a fixed body from GitLab's source.
"""

from __future__ import annotations

from typing import Any

from reconciler.events.fields import first_number, text
from reconciler.events.keys import ZEROS

Expected = tuple[str, int]
"""A test that we asked for: the hook's name in `receiver.hooks`, and the project's id."""

TRIGGER = "push_events"
"""The trigger that webhooks are tested with first: the only one whose test can be recognized by its body."""

_SAMPLE = ("95790bf891e76fee5e1747ab589903a6a1f80f22", "da1560886d4f094c3e6c9ef40349f7d38b5d27d7")
"""`before` and `after` of the body in GitLab's source. Its project does not exist."""


def is_test(body: Any) -> bool:
    """Whether a body proves that it is a `push_events` test."""
    return _is_sample(body) or _is_of_newest_commits(body)


def find_expected(expected: set[Expected], hook: str, body: Any) -> Expected | None:
    """The expected test that a webhook from this hook is; None if it is none."""
    if not expected or not is_test(body):
        return None
    project_id = first_number(body, "project_id", "project.id")
    return next((one for one in expected if one[0] == hook and (one[1] == project_id or _is_sample(body))), None)


def _is_sample(body: Any) -> bool:
    return isinstance(body, dict) and (body.get("before"), body.get("after")) == _SAMPLE


def _is_of_newest_commits(body: Any) -> bool:
    # A tag that is created again may list its `before` commit: only a branch's push proves a test.
    if not isinstance(body, dict) or body.get("object_kind") != "push":
        return False
    before, commits = text(body.get("before")), body.get("commits")
    if before is None or before == ZEROS or not isinstance(commits, list):
        return False
    return any(isinstance(commit, dict) and commit.get("id") == before for commit in commits)
