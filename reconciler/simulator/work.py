"""Issues, merge requests, milestones, comments, emoji."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reconciler.simulator import payloads
from reconciler.simulator.core import Core, Happening
from reconciler.simulator.payloads import Person, millis, offset, spelled_utc, zulu
from reconciler.simulator.things import FOLDERS, Thing, note_shown

TOUCH_INTERVAL_MS = 60_000


class Work(Core):
    """What people do to what they work on. Every change leaves the traces that GitLab's API shows."""

    def issue(self, project_id: int, title: str = "A bug", kind: str = "issue") -> Thing:
        thing = self._thing(project_id, title, kind)
        self.issue_does(project_id, thing, "open", kind=kind)
        return thing

    def issue_does(
        self,
        project_id: int,
        thing: Thing,
        action: str,
        *,
        kind: str = "issue",
        confidential: bool = False,
        edit: str = "title",
    ) -> Happening:
        """open, close, reopen or update an issue. The API calls a reopening `opened` too. `edit`: see `_edit`."""
        who = self.someone()
        target = "Issue" if kind == "issue" else "WorkItem"
        record_action = {"open": "opened", "reopen": "opened", "close": "closed"}.get(action)
        thing.confidential = confidential
        changes = self._change(project_id, thing, action, who, edit)
        attributes = self._attributes(thing, action, zulu)
        if action == "close":
            attributes["closed_at"] = zulu(self.clock())
        hook_event = "Confidential Issue Hook" if confidential else "Issue Hook"
        extra = {"labels": [_label(label) for label in thing.labels], "changes": changes}
        return self._object(
            project_id, kind, hook_event, attributes, thing, action, target, record_action, who, extra
        )

    def merge_request(self, project_id: int, title: str = "A fix") -> Thing:
        thing = self._thing(project_id, title, "merge_request")
        thing.versions.append(self._version())
        self.merge_request_does(project_id, thing, "open")
        return thing

    def merge_request_does(
        self, project_id: int, thing: Thing, action: str, who: Person | None = None, *, edit: str = "title"
    ) -> Happening:
        """open, close, reopen, merge, update, approved, approval, unapproved."""
        who = who or self.someone()
        record_action = {
            "open": "opened",
            "reopen": "opened",
            "close": "closed",
            "merge": "accepted",
            "approved": "approved",
            "approval": "approved",
        }.get(action)
        approving = action in ("approved", "approval", "unapproved", "unapproval")
        changes = {} if approving else self._change(project_id, thing, action, who, edit)
        attributes = self._attributes(thing, action, spelled_utc)
        if approving:
            attributes["updated_at"] = spelled_utc(thing.created_at)  # an approval need not touch it
        if action == "update" and edit == "push":
            attributes["oldrev"] = thing.versions[-2]["head_commit_sha"]
        hook_event = "Merge Request Hook"
        extra = {"labels": [_label(label) for label in thing.labels], "changes": changes}
        return self._object(
            project_id,
            "merge_request",
            hook_event,
            attributes,
            thing,
            action,
            "MergeRequest",
            record_action,
            who,
            extra,
        )

    def milestone(self, project_id: int, title: str = "v1") -> Thing:
        thing = self._thing(project_id, title, "milestone")
        self.milestone_does(project_id, thing, "create")
        return thing

    def milestone_does(self, project_id: int, thing: Thing, action: str) -> Happening:
        who = self.someone()
        record_action = {"create": "opened", "reopen": "opened", "close": "closed"}.get(action)
        self._change(project_id, thing, action, who, "")
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
            who,
            {"action": action},
        )

    def note(
        self, project_id: int, text: str = "Looks good", *, with_action: bool = True, on: Thing | None = None
    ) -> Thing:
        """A comment, on a merge request that always was there unless told. GitLab before 16.11 sends no action."""
        who, on = self.someone(), on or self._old_request(project_id)
        thing = Thing(self.new_id(), 0, text, self.clock(), "note", updated_at=self.clock(), on=on)
        thing.author = who
        self._touch(on)
        shown = note_shown(thing, self.projects[project_id].place, who, text)
        on.notes.append(shown)
        self.note_awards[thing.id] = thing.awards
        attributes = self._note_attributes(thing, text, "create" if with_action else None)
        body = payloads.object_webhook("note", self.projects[project_id].place, who, attributes)
        record = payloads.target_record("commented on", "DiffNote", thing.id, None, on.title) | {"note": dict(shown)}
        self.happen(project_id, f"note create {thing.id}", who, "Note Hook", body, record)
        return thing

    def edit_note(self, project_id: int, thing: Thing) -> Happening:
        """No record of the API mirrors an edit."""
        text, who = self.sha(), thing.author
        thing.updated_at = self.clock()
        shown = self._note_shown(thing)
        shown |= {"body": text, "updated_at": millis(thing.updated_at)}
        self._touch(thing.on)
        attributes = self._note_attributes(thing, text, "update")
        body = payloads.object_webhook("note", self.projects[project_id].place, who, attributes)
        return self.happen(project_id, f"note update {thing.id}", who, "Note Hook", body, None)

    def emoji(self, project_id: int, thing: Thing, name: str = "thumbsup") -> Happening:
        """Awarded to an issue, a merge request or a comment; taken back where this person has awarded it before."""
        who = self.someone()
        mine = next((a for a in thing.awards if a["user"]["id"] == who.id and a["name"] == name), None)
        action = "award" if mine is None else "revoke"
        kind = "Note" if thing.kind == "note" else "Issue" if thing.folder == "issues" else "MergeRequest"
        award = mine or {
            "id": self.new_id(),
            "name": name,
            "user": who.shown(),
            "created_at": millis(self.clock()),
            "updated_at": millis(self.clock()),
            "awardable_id": thing.id,
            "awardable_type": kind,
        }
        thing.awards.append(award) if mine is None else thing.awards.remove(award)
        if thing.kind == "note":  # a reaction moves a comment's time, and leaves an issue's alone
            thing.updated_at = self.clock()
            self._note_shown(thing)["updated_at"] = millis(self.clock())
        attributes = {
            "id": award["id"],
            "user_id": who.id,
            "name": name,
            "awardable_type": kind,
            "awardable_id": thing.id,
            "created_at": spelled_utc(self.clock()),
            "updated_at": spelled_utc(self.clock()),
            "action": action,
        }
        body = payloads.object_webhook("emoji", self.projects[project_id].place, who, attributes, event_type=action)
        return self.happen(project_id, f"emoji {action} {award['id']}", who, "Emoji Hook", body, None)

    # -- how it is done --------------------------------------------------------------------------------------

    def _change(self, project_id: int, thing: Thing, action: str, who: Person, edit: str) -> dict[str, Any]:
        """Make the change; what of it goes into the webhook's `changes`."""
        now = self.clock()
        thing.updated_at = now
        if action == "update":
            return self._edit(project_id, thing, who, edit)
        after = {"open": "opened", "create": "opened", "reopen": "opened", "close": "closed", "merge": "merged"}
        thing.state = after.get(action, thing.state)
        thing.closed_at = now if action == "close" else None
        thing.merged_at = now if action == "merge" else thing.merged_at
        if action in ("close", "reopen", "merge"):
            state = {"reopen": "reopened", "close": "closed", "merge": "merged"}[action]
            event = {"id": self.new_id(), "user": who.shown(), "created_at": millis(now), "state": state}
            thing.state_events.append(event)
        return {}

    def _edit(self, project_id: int, thing: Thing, who: Person, edit: str) -> dict[str, Any]:
        """Change the title (GitLab writes a system note), a label (a label event), push to the branch of a merge
        request (a version), or something that leaves no trace.
        """
        now, place = self.clock(), self.projects[project_id].place
        match edit:
            case "title":
                old, thing.title = thing.title, f"Title {self.new_id()}"
                note = Thing(self.new_id(), 0, "", now, "note", updated_at=now, on=thing)
                text = f"changed title from **{old}** to **{thing.title}**"
                thing.notes.append(note_shown(note, place, who, text, system=True))
                return {"title": {"previous": old, "current": thing.title}}
            case "label":
                before = list(thing.labels)
                added = not thing.labels
                label = {"id": 77, "name": "bug", "color": "#ff0000", "description": None}
                thing.labels = [label] if added else []
                event = {"id": self.new_id(), "user": who.shown(), "created_at": millis(now), "label": label}
                thing.label_events.append(event | {"action": "add" if added else "remove"})
                shown = [[_label(one) for one in of] for of in (before, thing.labels)]
                return {"labels": {"previous": shown[0], "current": shown[1]}}
            case "push":
                thing.versions.append(self._version())
        return {}

    def _touch(self, thing: Thing | None) -> None:
        """A comment touches what it stands on, at most once a minute (app/models/concerns/throttled_touch.rb)."""
        if thing is not None and self.clock() - thing.updated_at > TOUCH_INTERVAL_MS:
            thing.updated_at = self.clock()

    @staticmethod
    def _note_shown(thing: Thing) -> dict[str, Any]:
        return next(shown for shown in thing.on.notes if thing.on and shown["id"] == thing.id) if thing.on else {}

    def _version(self) -> dict[str, Any]:
        return {"id": self.new_id(), "head_commit_sha": self.sha(), "created_at": millis(self.clock())}

    def _old_request(self, project_id: int) -> Thing:
        """A merge request from before the world began."""
        things = self.projects[project_id].things.setdefault("merge_requests", {})
        old = next((thing for thing in things.values() if thing.title == "An old one"), None)
        if old is None:
            old = self._thing(project_id, "An old one", "merge_request")
            old.created_at = old.updated_at = 1_400_000_000_000
        return old

    def _thing(self, project_id: int, title: str, kind: str) -> Thing:
        new = self.new_id()
        thing = Thing(new, new - 1000, title, self.clock(), kind, updated_at=self.clock(), author=self.someone())
        self.projects[project_id].things.setdefault(FOLDERS[kind], {})[thing.iid] = thing
        return thing

    def _attributes(self, thing: Thing, action: str | None, time_format: Callable[[int], str]) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": thing.id,
            "iid": thing.iid,
            "title": thing.title,
            "state": "active" if thing.kind == "milestone" and thing.state == "opened" else thing.state,
            "created_at": time_format(thing.created_at),
            "updated_at": time_format(self.clock()),
        }
        return shown if action is None else shown | {"action": action}

    def _note_attributes(self, thing: Thing, text: str, action: str | None) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": thing.id,
            "note": text,
            "noteable_type": {"issues": "Issue", "merge_requests": "MergeRequest"}[thing.on.folder]
            if thing.on
            else None,
            "noteable_id": thing.on.id if thing.on else None,
            "author_id": thing.author.id,
            "created_at": spelled_utc(thing.created_at),
            "updated_at": spelled_utc(self.clock()),
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
        who: Person,
        extra: dict[str, Any],
    ) -> Happening:
        body = payloads.object_webhook(kind, self.projects[project_id].place, who, attributes, **extra)
        if kind == "milestone":
            del body["user"]
        if hook_event.startswith("Confidential"):
            body["event_type"] = f"confidential_{kind}"
        record = None
        if record_action is not None:
            record = payloads.target_record(record_action, target, thing.id, thing.iid, thing.title)
        return self.happen(project_id, f"{kind} {action} {thing.id}", who, hook_event, body, record)


def _label(label: dict[str, Any]) -> dict[str, Any]:
    """As webhooks show it."""
    return {"id": label["id"], "title": label["name"], "color": label["color"], "description": label["description"]}
