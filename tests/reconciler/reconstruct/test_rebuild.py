"""Rebuilt bodies against recorded ones: what is there, what is the same, and what is said not to be known."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.reconstruct import SourceData, rebuild
from reconciler.reconstruct.rebuild import BUILDERS
from tests.conftest import PAYLOADS
from tests.support.api_shapes import source_data_of
from tests.support.made import check_made

RECORDED = sorted(  # without one whose keys end in spaces: no GitLab wrote it
    file for file in PAYLOADS.rglob("*.json")
    if json.loads(file.read_text()).get("object_kind") in BUILDERS
    and not file.name.startswith("system-") and file.name != "group_merge_request.json"
)  # fmt: skip


def unlike(recorded: Any, rebuilt: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a recorded body and the rebuilt one differ: (path, how)."""
    if isinstance(recorded, dict) and isinstance(rebuilt, dict):
        for name in recorded:
            below = f"{path}.{name}" if path else name
            if name in rebuilt:
                yield from unlike(recorded[name], rebuilt[name], below)
            else:
                yield below, "missing"
    elif isinstance(recorded, list) and isinstance(rebuilt, list) and len(recorded) == len(rebuilt):
        recorded, rebuilt = in_order(recorded), in_order(rebuilt)
        for left, right in zip(recorded, rebuilt, strict=True):
            yield from unlike(left, right, f"{path}[]")
    elif recorded != rebuilt:
        yield path, "another value"


def in_order(items: list[Any]) -> list[Any]:
    """GitLab lists a pipeline's jobs in no order that means anything."""
    return sorted(items, key=lambda one: str(one.get("id")) if isinstance(one, dict) else "")


def excused(path: str, unknown: list[str]) -> bool:
    return any(path == one or path.startswith((f"{one}.", f"{one}[")) for one in unknown)


def test_every_kind_that_was_recorded_is_rebuilt() -> None:
    kinds = {json.loads(file.read_text())["object_kind"] for file in PAYLOADS.rglob("*.json")
             if "object_kind" in file.read_text()}  # fmt: skip
    assert kinds - set(BUILDERS) == {"access_token"}  # only GitLab's hook log tells of it


@pytest.mark.parametrize("file", RECORDED, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_rebuilt_body_says_what_it_does_not_know(file: Any) -> None:
    """Where it differs from the recorded one, it says so; or GitLab has come to write more than it did then."""
    recorded = json.loads(file.read_text())
    kind, data = source_data_of(recorded)
    rebuilt = rebuild(kind, data)
    assert rebuilt.body["object_kind"] == recorded["object_kind"]
    silent = [
        (path, how) for path, how in unlike(recorded, rebuilt.body)
        if not excused(path, rebuilt.unknown) and not peculiar(path, file.name)
    ]  # fmt: skip
    assert silent == []


OLD_FIELDS = (  # of versions of GitLab that are gone: no webhook of today has them
    "object_attributes.deleted_at", "object_attributes.locked_at", "object_attributes.position",
    "merge_request.deleted_at", "merge_request.locked_at", "merge_request.position", "issue.deleted_at",
    "issue.position", "issue.branch_name", "issue.moved_to_id", "issue.relative_position", "issue.lock_version",
    "merge_request.lock_version", "object_attributes.lock_version", "object_attributes.change_position",
    "object_attributes.original_position", "object_attributes.updated_by_id", "object_attributes.branch_name",
    "assignee", "merge_request.assignee",
)  # fmt: skip
TIMES = ("object_attributes.created_at", "object_attributes.updated_at")
EDITED = {  # examples of GitLab's documentation, edited by hand: what they say of one thing does not agree, or no
    # GitLab writes it so (times that end in Z, or in the zone of who wrote the example)
    "comment-commit-event.json": ("project.url", "repository"),
    "comment-issue-event.json": ("project.url", "repository", "object_attributes.url"),
    "comment-merge-request-event.json": (
        "project.url", "repository", "object_attributes.url", "merge_request.source.url", "merge_request.target.url"),
    "comment-snippet-event.json": ("project.url", "repository"),
    "confidential-comment-event.json": ("project.url", "repository", "object_attributes.url"),
    "confidential-issue-event.json": ("project.url", "repository", *TIMES),
    "deployment-event.json": ("status_changed_at",),
    "deployment.json": ("status_changed_at",),
    "feature_flag.json": ("project.url",),
    "issue-event.json": ("project.url", "repository", *TIMES),
    "issue_reopen.json": ("object_attributes.closed_at",),  # of 2017: reopening clears it today
    "merge-request-event.json": ("project.url", "repository", "object_attributes.target", *TIMES),
    "pipeline_hook.json": ("source_pipeline",),  # though a merge request started it
    "pipeline_subgroup.json": ("source_pipeline",),
    "tag-event.json": ("repository.url",),
    "wikipage-event.json": ("wiki.web_url", "object_attributes.url"),
}  # fmt: skip


def peculiar(path: str, name: str) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in (*OLD_FIELDS, *EDITED.get(name, ())))


def test_a_record_alone_makes_a_body_too() -> None:
    """Without any details: every kind has a body of its shape, and names what is not known."""
    record = {"id": 1, "target_id": 5, "target_iid": 2, "target_title": "T", "author_id": 3, "action_name": "opened",
              "created_at": "2026-11-24T10:00:00.000Z", "push_data": {"ref": None, "ref_count": 7}}  # fmt: skip
    for kind in [*BUILDERS, "designmanagement::design"]:
        rebuilt = rebuild(kind, SourceData(record=record, project={"id": 42, "path_with_namespace": "g/p"}))
        assert json.loads(json.dumps(rebuilt.body)) == rebuilt.body
        assert rebuilt.unknown
        assert "UNKNOWN" not in json.dumps(rebuilt.body)


def test_a_state_is_the_event_s_and_not_the_object_s_of_today() -> None:
    shown = {"id": 5, "iid": 2, "state": "closed", "closed_at": "2026-11-24T12:00:00Z", "title": "T",
             "updated_at": "2026-11-24T12:00:00Z", "created_at": "2026-11-24T10:00:00Z"}  # fmt: skip
    record = {"target_id": 5, "created_at": "2026-11-24T10:00:00Z"}
    rebuilt = rebuild("issue", SourceData(record=record, project={"id": 42}, action="open", object=shown))
    attributes = rebuilt.body["object_attributes"]
    assert (attributes["state"], attributes["closed_at"]) == ("opened", None)
    assert "object_attributes" in rebuilt.unknown  # it was changed since: what it was then is a guess


def test_a_push_has_at_most_twenty_commits() -> None:
    commits = [{"id": str(n), "message": "m"} for n in range(30)]
    record = {
        "push_data": {"ref": "main", "ref_type": "branch", "commit_from": "a", "commit_to": "b", "commit_count": 30}
    }
    body = rebuild("push", SourceData(record=record, project={"id": 42}, more={"commits": commits})).body
    assert [commit["id"] for commit in body["commits"]] == [str(n) for n in range(10, 30)]
    assert body["total_commits_count"] == 30


def test_the_table_of_differences() -> None:
    """docs/reconstruction.md: for each kind, how the fields of recorded bodies come out."""
    same: dict[str, set[str]] = defaultdict(set)
    told: dict[str, set[str]] = defaultdict(set)
    gone: dict[str, set[str]] = defaultdict(set)
    files: dict[str, int] = defaultdict(int)
    for file in RECORDED:
        recorded = json.loads(file.read_text())
        kind, data = source_data_of(recorded)
        rebuilt = rebuild(kind, data)
        files[kind] += 1
        different = dict(unlike(recorded, rebuilt.body))
        for path in leaves(recorded):
            if path not in different:
                same[kind].add(path)
        for path in different:
            if excused(path, rebuilt.unknown):
                told[kind].add(path)
            elif path in OLD_FIELDS:
                gone[kind].add(path)
    rows = ["| kind | recorded bodies | fields the same | not known, and said so | no longer sent by GitLab |",
            "|---|---:|---:|---|---|"]  # fmt: skip
    for kind in sorted(files):
        alike = same[kind] - told[kind] - gone[kind]
        rows.append(
            f"| `{kind}` | {files[kind]} | {len(alike)} | {listed(told[kind])} | {listed(gone[kind] - told[kind])} |"
        )
    check_made("reconstruction.md", rows)


def leaves(body: Any, path: str = "") -> Iterator[str]:
    if isinstance(body, dict) and body:
        for name, value in body.items():
            yield from leaves(value, f"{path}.{name}" if path else name)
    elif isinstance(body, list) and body:
        for value in body:
            yield from leaves(value, f"{path}[]")
    else:
        yield path


def listed(paths: set[str]) -> str:
    """Paths, the many below one place as that place with a star."""
    below: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        below[path.rpartition(".")[0]].append(path)
    shown = []
    for parent, members in below.items():
        shown += [f"`{parent}.*`"] if parent and len(members) > 6 else [f"`{member}`" for member in members]
    return ", ".join(sorted(shown)) or "none"
