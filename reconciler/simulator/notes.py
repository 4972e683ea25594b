"""Comments, emoji, and the notes that GitLab itself writes."""

from __future__ import annotations

from typing import Any

from reconciler.simulator import payloads
from reconciler.simulator.core import Core, Happening
from reconciler.simulator.payloads import Person, millis, spelled_utc
from reconciler.simulator.things import FOLDERS, Thing, note_shown

TOUCH_INTERVAL_MS = 60_000


class Notes(Core):
    """What stands on issues and merge requests."""

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

    def system_note(self, project_id: int, thing: Thing, text: str, who: Person | None = None) -> None:
        """GitLab writes down what was done. By itself it tells nobody; it touches what it stands on."""
        now, place = self.clock(), self.projects[project_id].place
        note = Thing(self.new_id(), 0, "", now, "note", updated_at=now, on=thing)
        thing.notes.append(note_shown(note, place, who or self.someone(), text, system=True))
        self._touch(thing)

    # -- how it is done --------------------------------------------------------------------------------------

    def _touch(self, thing: Thing | None) -> None:
        """A comment touches what it stands on, at most once a minute (app/models/concerns/throttled_touch.rb)."""
        if thing is not None and self.clock() - thing.updated_at > TOUCH_INTERVAL_MS:
            thing.updated_at = self.clock()

    @staticmethod
    def _note_shown(thing: Thing) -> dict[str, Any]:
        return next(shown for shown in thing.on.notes if thing.on and shown["id"] == thing.id) if thing.on else {}

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
