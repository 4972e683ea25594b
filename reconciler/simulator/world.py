"""What really happened: projects whose people push, open, close and comment. The truth that others report on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reconciler.simulator import payloads
from reconciler.simulator.payloads import ZEROS, Person, Place, millis, offset, spelled_utc, zulu


@dataclass
class Happening:
    """One thing that happened, and how GitLab tells of it: by webhook, by record, by both, or by neither."""

    number: int
    at: int
    project_id: int
    what: str
    hook_event: str | None
    webhook: dict[str, Any] | None
    record: dict[str, Any] | None
    record_visible_at: int = 0


@dataclass
class Thing:
    """An issue, merge request, milestone or note."""

    id: int
    iid: int
    title: str
    created_at: int


@dataclass
class SimProject:
    place: Place
    heads: dict[str, str] = field(default_factory=dict)


class World:
    """Makes things happen. `clock` gives milliseconds; `tell` is called with each happening."""

    def __init__(
        self,
        *,
        seed: int = 0,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        record_lag: Callable[[], int] = lambda: 0,
    ) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.record_lag = record_lag
        self.projects: dict[int, SimProject] = {}
        self.happenings: list[Happening] = []
        self.tell: Callable[[Happening], None] = lambda _: None
        self.people = [Person(1, "root"), Person(2, "ada"), Person(3, "grace"), Person(4, "linus")]
        self._lock = threading.RLock()
        self._next_id = 1000

    def add_project(self, project_id: int, path: str) -> SimProject:
        self.projects[project_id] = SimProject(Place(project_id, path))
        return self.projects[project_id]

    # -- pushes ----------------------------------------------------------------------------------------------

    def push(self, project_id: int, branch: str = "main", after: str | None = None) -> Happening:
        """A push to a branch: makes it where it is not there. `after` sets the new head (A to B and back)."""
        return self._move(project_id, f"refs/heads/{branch}", after or self.sha())

    def tag(self, project_id: int, name: str) -> Happening:
        return self._move(project_id, f"refs/tags/{name}", self.sha())

    def delete_ref(self, project_id: int, ref: str) -> Happening:
        return self._move(project_id, ref, ZEROS)

    def bulk_push(self, project_id: int, refs: int = 4) -> Happening:
        """More than three refs at once: no webhook, one record."""
        for n in range(refs):
            self.projects[project_id].heads[f"refs/heads/bulk-{n}"] = self.sha()
        record = payloads.bulk_push_record(refs, "branch")
        return self._happen(project_id, "bulk push", self.someone(), None, None, record)

    def _move(self, project_id: int, ref: str, after: str) -> Happening:
        project, who = self.projects[project_id], self.someone()
        before = project.heads.get(ref, ZEROS)
        if after == ZEROS:
            project.heads.pop(ref, None)
        else:
            project.heads[ref] = after
        title = None if after == ZEROS else f"Commit {after[:8]}"
        body = payloads.push_webhook(project.place, who, ref, before, after, title)
        record = payloads.push_record(ref, before, after, title)
        hook_event = "Tag Push Hook" if ref.startswith("refs/tags/") else "Push Hook"
        return self._happen(project_id, f"push {ref}", who, hook_event, body, record)

    # -- issues, merge requests, milestones -----------------------------------------------------------------

    def issue(self, project_id: int, title: str = "A bug", kind: str = "issue") -> Thing:
        thing = self._thing(title)
        self.issue_does(project_id, thing, "open", kind=kind)
        return thing

    def issue_does(
        self, project_id: int, thing: Thing, action: str, *, kind: str = "issue", confidential: bool = False
    ) -> Happening:
        """open, close, reopen or update an issue. The API calls a reopening `opened` too."""
        target = "Issue" if kind == "issue" else "WorkItem"
        record_action = {"open": "opened", "reopen": "opened", "close": "closed"}.get(action)
        attributes = self._attributes(thing, action, zulu)
        if action == "close":
            attributes["closed_at"] = zulu(self.clock())
        hook_event = "Confidential Issue Hook" if confidential else "Issue Hook"
        return self._object(project_id, kind, hook_event, attributes, thing, action, target, record_action)

    def merge_request(self, project_id: int, title: str = "A fix") -> Thing:
        thing = self._thing(title)
        self.merge_request_does(project_id, thing, "open")
        return thing

    def merge_request_does(self, project_id: int, thing: Thing, action: str, who: Person | None = None) -> Happening:
        """open, close, reopen, merge, update, approved, approval, unapproved."""
        record_action = {
            "open": "opened",
            "reopen": "opened",
            "close": "closed",
            "merge": "accepted",
            "approved": "approved",
            "approval": "approved",
        }.get(action)
        attributes = self._attributes(thing, action, spelled_utc)
        if action in ("approved", "approval", "unapproved", "unapproval"):
            attributes["updated_at"] = spelled_utc(thing.created_at)  # an approval need not touch it
        hook_event = "Merge Request Hook"
        return self._object(
            project_id, "merge_request", hook_event, attributes, thing, action, "MergeRequest", record_action, who
        )

    def milestone(self, project_id: int, title: str = "v1") -> Thing:
        thing = self._thing(title)
        self.milestone_does(project_id, thing, "create")
        return thing

    def milestone_does(self, project_id: int, thing: Thing, action: str) -> Happening:
        record_action = {"create": "opened", "reopen": "opened", "close": "closed"}.get(action)
        attributes = self._attributes(thing, None, offset)
        return self._object(
            project_id,
            "milestone",
            "Milestone Hook",
            attributes,
            thing,
            action,
            "Milestone",
            record_action,
            extra={"action": action},
        )

    # -- notes, wiki, pipelines ------------------------------------------------------------------------------

    def note(self, project_id: int, text: str = "Looks good", *, with_action: bool = True) -> Thing:
        """A comment on a merge request. GitLab before 16.11 sends no action."""
        thing = self._thing(text)
        attributes = self._attributes(thing, "create" if with_action else None, spelled_utc) | {"note": text}
        attributes.pop("title")
        self._object(project_id, "note", "Note Hook", attributes, thing, "create", "DiffNote", "commented on")
        return thing

    def edit_note(self, project_id: int, thing: Thing) -> Happening:
        """No record of the API mirrors an edit."""
        attributes = self._attributes(thing, "update", spelled_utc) | {"note": self.sha()}
        return self._object(project_id, "note", "Note Hook", attributes, thing, "update", "Note", None)

    def wiki(self, project_id: int, slug: str, action: str = "create") -> Happening:
        """create, update or delete a page. The webhook has no time and no id; a deletion's record no slug."""
        title = slug.replace("-", " ").title()
        attributes = {"title": title, "content": self.sha(), "slug": slug, "action": action}
        who, place = self.someone(), self.projects[project_id].place
        did = {"create": "created", "update": "updated", "delete": "destroyed"}[action]
        record = payloads.target_record(did, "WikiPage::Meta", self.new_id(), None, title)
        if action != "delete":
            record["wiki_page"] = {"format": "markdown", "slug": slug, "title": title}
        body = payloads.object_webhook("wiki_page", place, who, attributes)
        return self._happen(project_id, f"wiki {action} {slug}", who, "Wiki Page Hook", body, record)

    def pipeline(self, project_id: int, status: str = "success") -> Happening:
        """No record of the Events API mirrors a pipeline."""
        now = self.clock()
        attributes = {
            "id": self.new_id(),
            "ref": "main",
            "status": status,
            "created_at": spelled_utc(now),
            "finished_at": spelled_utc(now),
        }
        who, place = self.someone(), self.projects[project_id].place
        body = payloads.object_webhook("pipeline", place, who, attributes)
        return self._happen(project_id, f"pipeline {status}", who, "Pipeline Hook", body, None)

    # -- how it is done --------------------------------------------------------------------------------------

    def anything(self, project_id: int) -> Happening:
        """Something that both a webhook and a record tell of, chosen at random."""
        choices: list[Callable[[], object]] = [
            lambda: self.push(project_id, self.random.choice(["main", "next", "fix"])),
            lambda: self.push(project_id),
            lambda: self.issue(project_id, f"Bug {self.new_id()}"),
            lambda: self.merge_request(project_id, f"Fix {self.new_id()}"),
            lambda: self.note(project_id, f"Comment {self.new_id()}"),
            lambda: self.wiki(project_id, f"page-{self.new_id()}"),
        ]
        with self._lock:
            self.random.choice(choices)()
            return self.happenings[-1]

    def someone(self) -> Person:
        return self.random.choice(self.people)

    def sha(self) -> str:
        return f"{self.random.getrandbits(160):040x}"

    def new_id(self) -> int:
        with self._lock:
            self._next_id += 1
            return self._next_id

    def _thing(self, title: str) -> Thing:
        new = self.new_id()
        return Thing(new, new - 1000, title, self.clock())

    def _attributes(self, thing: Thing, action: str | None, time_format: Callable[[int], str]) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": thing.id,
            "iid": thing.iid,
            "title": thing.title,
            "created_at": time_format(thing.created_at),
            "updated_at": time_format(self.clock()),
        }
        return shown if action is None else shown | {"action": action}

    def _object(
        self,
        project_id: int,
        kind: str,
        hook_event: str,
        attributes: dict[str, Any],
        thing: Thing,
        action: str,
        target: str,
        record_action: str | None,
        who: Person | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Happening:
        who = who or self.someone()
        body = payloads.object_webhook(kind, self.projects[project_id].place, who, attributes, **(extra or {}))
        record = None
        if record_action is not None:
            record = payloads.target_record(record_action, target, thing.id, thing.iid, thing.title)
        return self._happen(project_id, f"{kind} {action} {thing.id}", who, hook_event, body, record)

    def _happen(
        self,
        project_id: int,
        what: str,
        who: Person,
        hook_event: str | None,
        webhook: dict[str, Any] | None,
        record: dict[str, Any] | None,
    ) -> Happening:
        with self._lock:
            now = self.clock()
            if record is not None:
                record |= {
                    "id": self.new_id(),
                    "project_id": project_id,
                    "author_id": who.id,
                    "author_username": who.username,
                    "author": who.short(),
                    "created_at": millis(now + self.record_lag()),
                }
            happening = Happening(len(self.happenings), now, project_id, what, hook_event, webhook, record, now)
            self.happenings.append(happening)
        self.tell(happening)
        return happening
