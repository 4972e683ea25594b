"""Tells test webhooks, which GitLab sends on request, from real ones.

GitLab builds the body of a `push_events` test from the newest commits of the default branch, and names the oldest of
them as `before` (`Gitlab::DataBuilder::Push.build_sample`). A real push never lists its `before` commit. So the body
itself proves the test. A project without commits is tested with a fixed body from GitLab's source.
"""

from __future__ import annotations

from typing import Any

from reconciler.events.fields import first_number, text
from reconciler.events.keys import ZEROS
from reconciler.events.times import LATEST, Millis

TRIGGER = "push_events"
"""The trigger that webhooks are tested with first: the only one whose test can be recognized by its body."""

_SAMPLE = ("95790bf891e76fee5e1747ab589903a6a1f80f22", "da1560886d4f094c3e6c9ef40349f7d38b5d27d7")
"""`before` and `after` of the body in GitLab's source. Its project does not exist."""


def is_test(body: Any) -> bool:
    """Whether a body proves that it is a `push_events` test."""
    return _is_sample(body) or _is_of_newest_commits(body)


class ExpectedTests:
    """The tests that we asked GitLab for and that have not arrived: by the hook's name in `receiver.hooks`, and the
    project's id. The monitor that asks for them and the recorder share one.
    """

    def __init__(self) -> None:
        self._expected: dict[tuple[str, int], Millis] = {}
        """Until when each may have been received."""

    def __len__(self) -> int:
        return sum(until == LATEST for until in self._expected.values())

    def add(self, hook: str, project_id: int) -> None:
        """A test is asked for."""
        self._expected[hook, project_id] = LATEST

    def discard(self, hook: str, project_id: int, *, now: Millis) -> None:
        """The test has arrived, or will not. One that was received before may still be waiting to be recorded."""
        if (hook, project_id) in self._expected:
            self._expected[hook, project_id] = now

    def take(self, hook: str, body: Any, *, received_at: Millis) -> bool:
        """Whether a delivery by this hook is an expected test, which is then expected no longer."""
        if not self._expected or not is_test(body):
            return False
        project_id = first_number(body, "project_id", "project.id")
        of_hook = (
            (of, until)
            for of, until in self._expected.items()
            if of[0] == hook and (of[1] == project_id or _is_sample(body))
        )
        found = next((of for of, until in of_hook if received_at <= until), None)
        if found is None:
            return False
        del self._expected[found]
        return True


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
