"""Pushes and tags, from an Events API record and the compare endpoint's commits."""

from __future__ import annotations

from typing import Any

from reconciler.events.fields import dig
from reconciler.events.keys import ZEROS
from reconciler.reconstruct import common
from reconciler.reconstruct.source_data import UNKNOWN, Guess, Json, SourceData, known

MOST_COMMITS = 20
"""The most commits in a push's body (`PROCESS_COMMIT_LIMIT` of its push data builder)."""


def push(data: SourceData) -> Json:
    """`push` and `tag_push`. A bulk push has neither ref nor commits; GitLab sends no webhook for it."""
    push_data = data.record.get("push_data") or {}
    is_tag = push_data.get("ref_type") == "tag"
    kind = "tag_push" if is_tag else "push"
    before, after = push_data.get("commit_from") or ZEROS, push_data.get("commit_to") or ZEROS
    bulk = push_data.get("ref") is None
    who = data.author
    return {
        "object_kind": kind,
        "event_name": kind,
        "before": None if bulk else before,
        "after": None if bulk else after,
        "ref": None if bulk else f"refs/{'tags' if is_tag else 'heads'}/{push_data['ref']}",
        "ref_protected": UNKNOWN,
        "checkout_sha": _checkout(data, after, is_tag=is_tag),
        "message": UNKNOWN if is_tag else None,
        "user_id": known(data.record, "author_id"),
        "user_name": known(who, "name"),
        "user_username": known(data.record, "author_username"),
        "user_email": UNKNOWN,
        "user_avatar": known(who, "avatar_url"),
        "project_id": known(data.project, "id"),
        "project": common.project(data.project),
        "commits": _commits(data, bulk=bulk, gone=after == ZEROS),
        "total_commits_count": _total(push_data, is_tag=is_tag, bulk=bulk),
        "push_options": UNKNOWN,
        "repository": common.full_repository(data.project),
        **({"ref_count": push_data.get("ref_count")} if bulk else {}),
    }


def _checkout(data: SourceData, after: str, *, is_tag: bool) -> Any:
    """The commit after the push. For an annotated tag it is the tagged commit, while `after` is the tag itself."""
    if after == ZEROS:
        return None
    commits = data.more.get("commits")
    if not is_tag:
        return after
    return known(commits[-1], "id") if isinstance(commits, list) and commits else Guess(after)


def _commits(data: SourceData, *, bulk: bool, gone: bool) -> Any:
    if bulk:
        return UNKNOWN
    if gone:
        return []
    shown = data.more.get("commits")
    if not isinstance(shown, list):
        title = dig(data.record, "push_data.commit_title")
        after = dig(data.record, "push_data.commit_to")
        if title is None:
            return UNKNOWN
        return Guess([common.commit({"id": after, "title": title, "message": title}, files=True)])
    return [common.commit(one, files=True) for one in shown[-MOST_COMMITS:]]


def _total(push_data: Json, *, is_tag: bool, bulk: bool) -> Any:
    if bulk:
        return UNKNOWN
    return Guess(push_data.get("commit_count", 0)) if is_tag else known(push_data, "commit_count")
