"""Issues, merge requests, milestones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reconciler.simulator import payloads
from reconciler.simulator.core import Happening
from reconciler.simulator.notes import Notes
from reconciler.simulator.payloads import Person, millis, offset, spelled_utc, zulu
from reconciler.simulator.things import Thing


class Work(Notes):
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

    def prepare(self, thing: Thing) -> None:
        """GitLab does it in the background, seconds after the merge request was made, and tells nobody."""
        thing.prepared_at = thing.updated_at = self.clock()

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
        now = self.clock()
        match edit:
            case "title":
                old, thing.title = thing.title, f"Title {self.new_id()}"
                self.system_note(project_id, thing, f"changed title from **{old}** to **{thing.title}**", who)
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

    def _version(self) -> dict[str, Any]:
        return {"id": self.new_id(), "head_commit_sha": self.sha(), "created_at": millis(self.clock())}

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
