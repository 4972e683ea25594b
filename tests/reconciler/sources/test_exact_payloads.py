"""What is rebuilt of everything that happens, letter by letter against the webhook that GitLab sent of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.events import times
from reconciler.events.sighting import Sighting
from reconciler.events.times import HOUR, MINUTE
from reconciler.sources.table import SOURCES
from tests.reconciler.sources.conftest import NOW, Scene
from tests.reconciler.sources.test_lists import by_webhook, same


def unlike(told: Any, sent: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where both say something, and not the same."""
    if isinstance(told, dict) and isinstance(sent, dict):
        for name in sent.keys() & told.keys():
            yield from unlike(told[name], sent[name], f"{path}.{name}" if path else name)
    elif isinstance(told, list) and isinstance(sent, list) and len(told) == len(sent):
        for one, other in zip(told, sent, strict=True):
            yield from unlike(one, other, f"{path}[]")
    elif told != sent:
        yield path, told, sent


IN_ITS_OWN_WAY = {"issue", "milestone", "deployment"}
"""The simulator writes the times of these as GitLab's documentation does, or as an instance that has a time zone."""


def everything(scene: Scene) -> None:
    world = scene.world
    issue, request = world.issue(42), world.merge_request(42)
    world.push(42)
    world.push(42, "next")
    world.tag(42, "v1")
    scene.later(10 * MINUTE)
    world.issue_does(42, issue, "update")
    world.merge_request_does(42, request, "update", edit="push")
    world.note(42, on=request)
    world.emoji(42, request)
    world.milestone(42)
    world.wiki(42, "home")
    world.pipeline(42)
    world.pipeline_becomes(42, world.new_pipeline(42, request), "failed")
    world.deployment_becomes(42, world.new_deployment(42), "success")
    world.release(42, "v2")
    world.switch_flag(42)


def is_named(path: str, told: Sighting) -> bool:
    unknown = [] if told.recovery is None else told.recovery.unknown
    return any(path == one or path.startswith((f"{one}.", f"{one}[")) for one in unknown)


@pytest.mark.parametrize("source", [entry.name for entry in SOURCES if entry.name != "hook_log"])
def test_what_is_told_is_what_was_sent(scene: Scene, source: str) -> None:
    everything(scene)
    told = scene.complete(source, scene.read(source, NOW - HOUR))
    assert told
    for one in told:
        [sent] = [h for h in scene.world.happenings if h.webhook is not None
                  and by_webhook(h).summary.action == one.summary.action and same(one, h)]  # fmt: skip
        found = [
            (path, rebuilt, other)
            for path, rebuilt, other in unlike(json.loads(one.payload), sent.webhook)
            if not is_named(path, one)
        ]
        if one.summary.kind in IN_ITS_OWN_WAY:
            found = [row for row in found if times.parse(row[1]) != times.parse(row[2]) or row[1] is None]
        assert found == []
