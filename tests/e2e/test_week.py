"""A week of 10 projects with every kind of webhook, lived through twice: without a break, and with the service down
for parts of it. What the second one lacks must be what docs/recovery.md says can't be had again, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.events import times
from reconciler.events.times import HOUR, MINUTE, Millis
from tests.support.ledgers import ledger_location
from tests.support.week import Told, Week, live_through

DAY = 24 * HOUR
DOWN = [
    (Millis(26 * HOUR), Millis(34 * HOUR)),  # a night
    (Millis(50 * HOUR), Millis(50 * HOUR + 20 * MINUTE)),  # an upgrade
    (Millis(80 * HOUR), Millis(81 * HOUR)),
    (Millis(82 * HOUR), Millis(82 * HOUR + 40 * MINUTE)),
    (Millis(100 * HOUR), Millis(131 * HOUR)),  # a day and a bit: GitLab disables the webhooks for hours
]
# What docs/recovery.md lists under "What cannot be recovered", by the keys of such events.
LOST = {
    "intermediate states of a pipeline": r"pipeline:\d+:(created|pending|running)",
    "intermediate states of a job": r"build:\d+:(created|pending|running)",
    "intermediate states of a deployment": r"deployment:\d+:(created|running)",
    "edits and deletions of releases": r"release:.*:(update|delete):\w+",
    "unapprovals": r"merge_request:\d+:unapproved:\w+",
    "emoji on an object that did not change otherwise": r"emoji:\d+:award",
    "earlier states of a feature flag": r"feature_flag:.*:(true|false)",
    "expiring access tokens": r"access_token:.*",
    "vulnerabilities": r"vulnerability:.*",
}


@pytest.mark.sqlite("a week, which takes five minutes in PostgreSQL")
@pytest.mark.long
@pytest.mark.timeout(400)
async def test_a_week_with_the_service_down_ends_as_one_without(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger_location(engine, tmp_path / "whole") as first, ledger_location(engine, tmp_path / "broken") as second:
        whole = await live_through(first, monkeypatch, down=[])
        broken = await live_through(second, monkeypatch, down=DOWN)
    assert whole.happened == broken.happened > 750
    assert len({told.kind for told in whole.told}) >= 16
    assert len(whole.told) == whole.happened  # each thing that happened is one event
    assert whole.gaps == []
    assert broken.downtimes == len(DOWN)
    assert broken.was_disabled  # GitLab disabled hooks, and we had them enabled again

    assert broken.keys - whole.keys == {}  # nothing twice, nothing that did not happen
    lost = whole.keys - broken.keys
    unforeseen = [key for key in lost if not any(re.fullmatch(pattern, key) for pattern in LOST.values())]
    assert unforeseen == []
    assert lost.total() < whole.happened // 10
    assert broken.gaps == []
    _same_bodies(whole, broken)


def test_the_docs_name_what_is_lost() -> None:
    text = (Path(__file__).parents[2] / "docs" / "recovery.md").read_text()
    assert [name for name in LOST if name not in text] == []


def _same_bodies(whole: Week, broken: Week) -> None:
    """What a consumer is sent of a recovered event is what it would have been sent, but for what is said of it."""
    originals = whole.by_key()
    compared = {"hook_log": 0, "api": 0}
    unlike = {}
    for key, events in broken.by_key().items():
        if len(events) != len(originals[key]):
            continue
        for event, original in zip(events, originals[key], strict=True):
            if event.recovery is not None and original.recovery is None:
                compared[event.recovery["by"]] += 1
                if found := _differences(original, event):
                    unlike[key] = found
    assert unlike == {}, "\n".join(f"{key}: {paths}" for key, paths in unlike.items())
    assert min(compared.values()) > 50, compared


def _differences(original: Told, event: Told) -> list[str]:
    assert event.recovery is not None
    excused = [*event.recovery["unknown"], *event.recovery["redacted"]]
    found = list(_unlike(original.body, event.body, ""))
    if (original.kind, original.action) != (event.kind, event.action):
        found.append(f"{original.kind} {original.action}: {event.kind} {event.action}")
    return [path for path in found if not any(_below(path, one) for one in excused)]


def _unlike(one: Any, other: Any, path: str) -> Iterator[str]:
    """The paths at which the original has what the other has not."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name, value in one.items():
            below = f"{path}.{name}" if path else name
            if name in other:
                yield from _unlike(value, other[name], below)
            else:
                yield below
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for left, right in zip(one, other, strict=True):
            yield from _unlike(left, right, f"{path}[]")
    elif one != other and not _same_time(one, other):
        yield path


def _same_time(one: Any, other: Any) -> bool:
    left, right = times.parse(one), times.parse(other)
    return left is not None and right is not None and abs(left - right) < 2000


def _below(path: str, parent: str) -> bool:
    return path == parent or path.startswith((f"{parent}.", f"{parent}["))
