"""A test of a webhook is told from a real push by its body alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.events.hook_tests import ExpectedTests, is_test
from reconciler.events.times import Millis
from reconciler.simulator.hook_api import sample_push
from reconciler.simulator.hooks import webhook_bytes
from reconciler.simulator.world import World

MOVES = st.lists(
    st.tuples(st.sampled_from(["push", "tag", "back", "delete"]), st.sampled_from(["main", "next"])), max_size=12
)

NOW = Millis(1_795_000_000_000)


def body(shown: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(webhook_bytes(shown))
    return made


@given(moves=MOVES)
def test_no_real_push_looks_like_a_test_and_every_test_does(moves: list[tuple[str, str]]) -> None:
    world = World()
    project = world.add_project(42, "group/project")
    seen: list[str] = []
    for move, name in moves:
        if move == "push":
            world.push(42, name)
        elif move == "tag":
            world.tag(42, name)
        elif move == "back" and seen and seen[0] != project.heads.get(f"refs/heads/{name}"):
            world.push(42, name, seen[0])  # to where it was before
        elif move == "delete" and f"refs/heads/{name}" in project.heads:
            world.delete_ref(42, f"refs/heads/{name}")
        seen += project.heads.values()
        assert is_test(body(sample_push(world, 42)))
    assert not any(is_test(body(happening.webhook)) for happening in world.happenings)


def test_a_tag_made_anew_on_the_commit_it_had_is_no_test() -> None:
    moved = {"object_kind": "tag_push", "before": "a" * 40, "after": "b" * 40, "commits": [{"id": "a" * 40}]}
    assert not is_test(moved)
    assert is_test(moved | {"object_kind": "push"})


@pytest.mark.parametrize("other", [None, [], "push", 7, {}, {"object_kind": "push"}, {"before": ["a"], "after": {}}])
def test_what_is_no_push_is_no_test(other: Any) -> None:
    assert not is_test(other)


def test_only_the_hook_that_was_asked_for_and_its_project() -> None:
    world = World()
    world.add_project(42, "group/project")
    empty = body(sample_push(world, 42))  # of a project that is nobody's
    world.push(42)
    sample = body(sample_push(world, 42))
    for asked_for, arrived in ((42, sample), (42, empty)):
        expected = ExpectedTests()
        expected.add("one", asked_for)
        assert not expected.take("two", arrived, received_at=NOW)
        assert expected.take("one", arrived, received_at=NOW)
        assert not expected
    expected.add("one", 43)
    assert not expected.take("one", sample, received_at=NOW)
    assert len(expected) == 1
    assert not ExpectedTests().take("one", sample, received_at=NOW)
