"""A body's fingerprint takes any JSON object there is, and is the same for what GitLab's log shows of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.events.api_record_sighting import record_sighting
from reconciler.events.fields import LONGEST_NAME
from reconciler.events.fingerprint import _written, fingerprint
from reconciler.events.times import Millis
from reconciler.events.webhook_sighting import webhook_sighting
from tests.reconciler.events.test_texts import any_text, values

HUGE = "x" * 1_000_000


@given(st.dictionaries(any_text, values))
def test_every_body_is_written_as_json_writes_it(body: dict[str, Any]) -> None:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    assert _written(body) == text
    try:
        fast = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        fast = text.encode()
    if b"@" not in fast:
        assert fingerprint(body) == hashlib.sha256(fast).hexdigest()


@pytest.mark.parametrize("levels", [200, 253, 254, 255, 900, 1000, 1020])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_no_matter(levels: int, start: str, end: str) -> None:
    body = orjson.loads('{"deep":' + start * levels + "1" + end * levels + "}")
    assert fingerprint(body) == fingerprint(body)
    assert fingerprint(body) != fingerprint({"deep": 1})


def test_what_lists_show_is_no_longer_than_names_are() -> None:
    body = {
        "object_kind": HUGE,
        "event_name": HUGE,
        "ref": HUGE,
        "user_username": HUGE,
        "object_attributes": {"action": HUGE, "title": HUGE},
        "project": {"path_with_namespace": HUGE},
        "before": HUGE,
        "after": HUGE,
        "project_id": 1,
    }
    for kind in (HUGE, "push", "issue", "release", "feature_flag"):
        sighting = webhook_sighting(
            body | {"object_kind": kind, "tag": HUGE, "name": HUGE, "action": HUGE},
            payload="",
            source="webhook:default",
            source_id="1",
            event_uuid=None,
            seen_at=Millis(0),
            headers={},
            project_ids={},
        )
        about = sighting.summary
        shown = (about.kind, about.action, about.ref, about.author, about.project_path, about.title, about.object)
        assert max(len(one or "") for one in shown) <= LONGEST_NAME, kind
        assert len(sighting.identity.key) < 1100


def test_nor_is_it_where_the_api_told_it() -> None:
    for action, target in (("opened", "Issue"), ("pushed to", None), (HUGE, HUGE)):
        record = {
            "id": 1,
            "action_name": action,
            "target_type": target,
            "target_title": HUGE,
            "author_username": HUGE,
            "created_at": "2026-11-24T10:00:00Z",
            "push_data": {"ref": HUGE, "commit_title": HUGE, "ref_type": "branch"},
        }
        sighting = record_sighting(record, payload="{}", project_id=1, project_path=HUGE, seen_at=Millis(0))
        about = sighting.summary
        shown = (about.kind, about.action, about.ref, about.author, about.project_path, about.title, about.object)
        assert max(len(one or "") for one in shown) <= LONGEST_NAME, action
