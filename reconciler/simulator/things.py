"""Issues, merge requests, milestones and notes: what they are now, and the traces that changes left behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reconciler.simulator.payloads import Person, Place, millis

FOLDERS = {"issue": "issues", "work_item": "issues", "merge_request": "merge_requests", "milestone": "milestones"}


@dataclass
class Thing:
    """An issue, work item, merge request, milestone or note, and everything that hangs on it."""

    id: int
    iid: int
    title: str
    created_at: int
    kind: str = "issue"
    updated_at: int = 0
    state: str = "opened"
    closed_at: int | None = None
    merged_at: int | None = None
    prepared_at: int | None = None
    confidential: bool = False
    author: Person = field(default_factory=lambda: Person(1, "root"))
    labels: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    label_events: list[dict[str, Any]] = field(default_factory=list)
    milestone_events: list[dict[str, Any]] = field(default_factory=list)
    state_events: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    awards: list[dict[str, Any]] = field(default_factory=list)
    hidden: bool = False
    on: Thing | None = None
    """For a note: what it stands on."""

    @property
    def folder(self) -> str:
        return FOLDERS[self.kind]

    def url(self, place: Place) -> str:
        return f"https://gitlab.example.com/{place.path}/-/{self.folder}/{self.iid}"

    def shown(self, place: Place) -> dict[str, Any]:
        """As the API shows it."""
        common = {
            "id": self.id,
            "iid": self.iid,
            "project_id": place.id,
            "title": self.title,
            "description": f"About {self.title}",
            "state": "active" if self.kind == "milestone" and self.state == "opened" else self.state,
            "created_at": millis(self.created_at),
            "updated_at": millis(self.updated_at),
            "web_url": self.url(place),
        }
        if self.kind == "milestone":
            return common | {"due_date": None, "start_date": None}
        common |= {
            "author": self.author.shown(),
            "assignee": None,
            "assignees": [],
            "labels": list(self.labels),
            "milestone": None,
            "closed_at": None if self.closed_at is None else millis(self.closed_at),
            "time_stats": {"time_estimate": 0, "total_time_spent": 0, "human_time_estimate": None,
                           "human_total_time_spent": None},
        }  # fmt: skip
        if self.kind != "merge_request":
            kind = "ISSUE" if self.kind == "issue" else "TASK"
            return common | {"confidential": self.confidential, "type": kind, "due_date": None, "severity": "UNKNOWN"}
        return common | {
            "source_branch": "topic",
            "target_branch": "main",
            "source_project_id": place.id,
            "target_project_id": place.id,
            "merged_at": None if self.merged_at is None else millis(self.merged_at),
            "prepared_at": None if self.prepared_at is None else millis(self.prepared_at),
            "draft": False,
            "reviewers": [],
            "sha": self.versions[-1]["head_commit_sha"] if self.versions else None,
            "merge_status": "can_be_merged",
        }


def note_shown(note: Thing, place: Place, who: Person, body: str, *, system: bool = False) -> dict[str, Any]:
    """A note as the API shows it, in lists and in records of the Events API."""
    on = note.on
    return {
        "id": note.id,
        "type": None if system else "DiffNote",
        "body": body,
        "attachment": None,
        "author": who.shown(),
        "created_at": millis(note.created_at),
        "updated_at": millis(note.updated_at or note.created_at),
        "system": system,
        "noteable_id": None if on is None else on.id,
        "noteable_type": None if on is None else {"issues": "Issue", "merge_requests": "MergeRequest"}[on.folder],
        "noteable_iid": None if on is None else on.iid,
        "project_id": place.id,
        "confidential": False,
        "internal": False,
        "position": None,
        "resolvable": False,
    }
