"""What GitLab writes: webhook bodies and Events API records, in the shapes and time formats of the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

ZEROS = "0" * 40


@dataclass(frozen=True)
class Person:
    id: int
    username: str

    def short(self) -> dict[str, Any]:
        """As webhooks show a user."""
        return {"id": self.id, "name": self.username.title(), "username": self.username, "email": "[REDACTED]"}

    def shown(self) -> dict[str, Any]:
        """As the API shows a user."""
        return {"id": self.id, "name": self.username.title(), "username": self.username, "state": "active"}


@dataclass(frozen=True)
class Place:
    """A project."""

    id: int
    path: str

    def api(self) -> dict[str, Any]:
        """As the API shows it."""
        url = f"https://gitlab.example.com/{self.path}"
        return {
            "id": self.id,
            "name": self.path.rpartition("/")[2],
            "path": self.path.rpartition("/")[2],
            "path_with_namespace": self.path,
            "name_with_namespace": self.path.replace("/", " / "),
            "description": "",
            "visibility": "private",
            "default_branch": "main",
            "web_url": url,
            "avatar_url": None,
            "ssh_url_to_repo": f"git@gitlab.example.com:{self.path}.git",
            "http_url_to_repo": f"{url}.git",
            "namespace": {"id": 1, "name": self.path.rpartition("/")[0], "full_path": self.path.rpartition("/")[0]},
            "archived": False,
        }

    def shown(self) -> dict[str, Any]:
        """As webhooks show it."""
        url = f"https://gitlab.example.com/{self.path}"
        return {
            "id": self.id,
            "name": self.path.rpartition("/")[2],
            "web_url": url,
            "namespace": self.path.rpartition("/")[0],
            "path_with_namespace": self.path,
            "default_branch": "main",
            "git_http_url": f"{url}.git",
        }


def zulu(ms: int) -> str:
    """`2013-12-03T17:15:43Z`"""
    return f"{_at(ms):%Y-%m-%dT%H:%M:%SZ}"


def spelled_utc(ms: int) -> str:
    """`2015-05-17 18:08:09 UTC`"""
    return f"{_at(ms):%Y-%m-%d %H:%M:%S UTC}"


def offset(ms: int) -> str:
    """`2023-11-20 18:21:41 +0100`"""
    return f"{_at(ms).astimezone(timezone(timedelta(hours=1))):%Y-%m-%d %H:%M:%S %z}"


def millis(ms: int) -> str:
    """`2023-11-20T17:21:41.123Z`, as the API writes times."""
    return f"{_at(ms):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, tz=UTC)


def from_millis(text: str) -> int:
    """Read what `millis` wrote."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def push_webhook(
    place: Place, who: Person, ref: str, before: str, after: str, commits: list[dict[str, Any]]
) -> dict[str, Any]:
    kind = "tag_push" if ref.startswith("refs/tags/") else "push"
    return {
        "object_kind": kind,
        "event_name": kind,
        "before": before,
        "after": after,
        "ref": ref,
        "checkout_sha": None if after == ZEROS else after,
        "user_id": who.id,
        "user_name": who.username.title(),
        "user_username": who.username,
        "project_id": place.id,
        "project": place.shown(),
        "commits": [_hook_commit(commit) for commit in commits],
        "total_commits_count": len(commits),
    }


def _hook_commit(commit: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": commit["id"],
        "message": commit["message"],
        "title": commit["title"],
        "timestamp": zulu(from_millis(commit["committed_date"])),
        "url": commit["web_url"],
        "author": {"name": commit["author_name"], "email": commit["author_email"]},
    }


def push_record(ref: str, before: str, after: str, title: str | None, commits: int) -> dict[str, Any]:
    created, removed = before == ZEROS, after == ZEROS
    return {
        "action_name": "deleted" if removed else "pushed new" if created else "pushed to",
        "target_id": None,
        "target_iid": None,
        "target_type": None,
        "target_title": None,
        "push_data": {
            "commit_count": commits,
            "action": "removed" if removed else "created" if created else "pushed",
            "ref_type": "tag" if ref.startswith("refs/tags/") else "branch",
            "commit_from": None if created else before,
            "commit_to": None if removed else after,
            "ref": ref.split("/", 2)[2],
            "commit_title": None if title is None else title[:70],
            "ref_count": None,
        },
    }


def bulk_push_record(refs: int, ref_type: str) -> dict[str, Any]:
    """More than three refs in one push: one record without refs, and no webhook."""
    return {
        "action_name": "pushed to",
        "target_id": None,
        "target_iid": None,
        "target_type": None,
        "target_title": None,
        "push_data": {
            "commit_count": 0,
            "action": "pushed",
            "ref_type": ref_type,
            "commit_from": None,
            "commit_to": None,
            "ref": None,
            "commit_title": None,
            "ref_count": refs,
        },
    }


def object_webhook(kind: str, place: Place, who: Person, attributes: dict[str, Any], **extra: Any) -> dict[str, Any]:
    return {
        "object_kind": kind,
        "event_type": kind,
        "user": who.short(),
        "project": place.shown(),
        "object_attributes": attributes,
        **extra,
    }


def target_record(
    action: str, target_type: str, target_id: int | None, iid: int | None, title: str
) -> dict[str, Any]:
    return {
        "action_name": action,
        "target_id": target_id,
        "target_iid": iid,
        "target_type": target_type,
        "target_title": title,
    }
