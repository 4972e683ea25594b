"""Edits of issues and merge requests, edits of comments, emoji: what no record of the Events API tells.

GitLab's lists say which object changed last when. What changed is pieced together: label and milestone events,
a merge request's versions, and the system notes that GitLab writes of edits. Everything that one person did to one
object within two seconds was one save, and one webhook. A change that nothing explains is told as one of which
what changed is not known.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from reconciler.events import keys, times
from reconciler.events.fields import dig, number
from reconciler.events.sighting import Sighting
from reconciler.events.times import SECOND, Millis
from reconciler.ledger.coverage import Interval
from reconciler.reconstruct import Material, parts
from reconciler.reconstruct.material import UNKNOWN, Guess
from reconciler.sources.details import Details
from reconciler.sources.errors import Refused
from reconciler.sources.listing import Listing, Version
from reconciler.sources.source import Project

ONE_SAVE = Millis(2 * SECOND)
"""Traces so near each other, of one person, are of one save."""
EXPLAINED = Millis(3 * SECOND)
"""An `updated_at` so near a known trace needs no other explanation."""

EDITS = re.compile(
    r"(changed|removed|assigned|unassigned|requested review|marked|unmarked|made the|set|added .* time|subtracted"
    r"|locked|unlocked|enabled|aborted|deleted)\b"
)
"""How GitLab's system notes of edits begin (app/services/system_notes); others tell of mentions, commits, states."""


class Trace(msgspec.Struct, frozen=True):
    """Something that tells of a change: when, by whom, and what it did to the fields."""

    at: Millis
    author: dict[str, Any]
    is_edit: bool
    changes: dict[str, Any] = {}
    oldrev: str | None = None


class Edits(Listing):
    """Reads the objects that changed, and for each what explains the change. A subclass says which objects."""

    kind: str
    folder: str

    def records(self, project: Project, part: Interval, read: list[Version]) -> Iterator[dict[str, Any]]:
        query = {"scope": "all", "with_labels_details": "true"}
        return self.new_versions(f"/projects/{project.id}/{self.folder}", part, query, read)

    def sightings(
        self, project: Project, record: dict[str, Any], part: Interval, details: Details
    ) -> Iterator[Sighting]:
        ident, iid = number(record.get("id")), number(record.get("iid"))
        changed_at = times.parse(record.get("updated_at"))
        if ident is None or iid is None or changed_at is None:
            return
        path = f"/{self.folder}/{iid}"
        notes = self._notes(project, path, since=min(part.start, Millis(changed_at - EXPLAINED)))
        traces = [*self._traces(record, path, details), *_note_traces(notes)]
        if all(abs(changed_at - at) > EXPLAINED for at in [t.at for t in traces] + _own_times(record)):
            traces.append(Trace(changed_at, {}, is_edit=True))
        for trace in _saves([t for t in traces if t.is_edit and part.start <= t.at < part.end]):
            yield self._update(project, ident, record, trace, details)
        awards = details.all(f"{path}/award_emoji")
        for note in notes:
            edited = _edited(note)
            if edited is not None and part.start <= edited < part.end:
                on_note = details.all(f"{path}/notes/{note.get('id')}/award_emoji")
                awards += on_note
                if not _explained(edited, [note.get("resolved_at"), *(award.get("created_at") for award in on_note)]):
                    yield from self._note_edit(project, note, edited, record)
        for award in awards:
            yield from self._emoji(project, award, record, part)

    def _notes(self, project: Project, path: str, *, since: Millis) -> list[dict[str, Any]]:
        """The notes on something that were made or changed since then."""
        query, found = {"order_by": "updated_at", "sort": "desc"}, []
        try:
            for note in self.pages(f"/projects/{project.id}{path}/notes", query):
                if (times.parse(note.get("updated_at")) or since) < since:
                    break
                found.append(note)
        except Refused:  # deleted meanwhile
            pass
        return found

    def _traces(self, record: dict[str, Any], path: str, details: Details) -> Iterator[Trace]:
        for event in details.all(f"{path}/resource_label_events"):
            yield from _trace(event, is_edit=True, changes={"labels": {event.get("action"): event.get("label")}})
        for event in details.all(f"{path}/resource_milestone_events"):
            milestone = dig(event, "milestone.id")
            yield from _trace(event, is_edit=True, changes={"milestone_id": {event.get("action"): milestone}})
        for event in details.all(f"{path}/resource_state_events"):
            yield from _trace(event, is_edit=False)

    def _update(
        self, project: Project, ident: int, record: dict[str, Any], trace: Trace, details: Details
    ) -> Sighting:
        told = {"created_at": times.iso(trace.at), "author": trace.author, "target_id": ident, "object": record}
        more: dict[str, Any] = {"changes": _changes(trace, record)}
        if trace.oldrev is not None:
            more["oldrev"] = trace.oldrev
        material = Material(record=told, project=project.shown, action="update", object=record, more=more)
        key = keys.listed(self.kind, ident, "update")
        return self.told(self.kind, f"{ident}:{trace.at}", key, trace.at, material)

    def _note_edit(
        self, project: Project, note: dict[str, Any], edited: Millis, record: dict[str, Any]
    ) -> Iterator[Sighting]:
        ident = number(note.get("id"))
        if ident is not None:
            told = {"created_at": note["updated_at"], "note": note}
            material = Material(record=told, project=project.shown, action="update", more={"noteable": record})
            key = keys.listed("note", ident, "update")
            yield self.told("note", f"note:{ident}:{edited}", key, edited, material)

    def _emoji(
        self, project: Project, award: dict[str, Any], record: dict[str, Any], part: Interval
    ) -> Iterator[Sighting]:
        ident, at = number(award.get("id")), times.parse(award.get("created_at"))
        if ident is not None and at is not None and part.start <= at < part.end:
            material = Material(record=award, project=project.shown, action="award", more={"noteable": record})
            yield self.told("emoji", f"emoji:{ident}", keys.listed("emoji", ident, "award"), at, material, once=True)


class Issues(Edits):
    """`GET /projects/:id/issues?updated_after=`."""

    name = "issues"
    kind = "issue"
    folder = "issues"


class MergeRequests(Edits):
    """`GET /projects/:id/merge_requests?updated_after=`, and the versions that pushes to its branch made."""

    name = "merge_requests"
    kind = "merge_request"
    folder = "merge_requests"

    def _traces(self, record: dict[str, Any], path: str, details: Details) -> Iterator[Trace]:
        yield from super()._traces(record, path, details)
        versions = sorted(details.all(f"{path}/versions"), key=lambda v: v.get("id", 0))
        for before, version in itertools.pairwise(versions):
            yield from _trace(version, is_edit=True, oldrev=before.get("head_commit_sha"))


def _trace(
    event: dict[str, Any], *, is_edit: bool, changes: dict[str, Any] | None = None, oldrev: str | None = None
) -> Iterator[Trace]:
    at = times.parse(event.get("created_at"))
    if at is not None:
        yield Trace(at, event.get("user") or event.get("author") or {}, is_edit, changes or {}, oldrev)


def _note_traces(notes: list[dict[str, Any]]) -> Iterator[Trace]:
    """System notes tell of edits and of much else; people's notes only explain why the object was touched."""
    for note in notes:
        of_edit = bool(note.get("system")) and EDITS.match(str(note.get("body"))) is not None
        yield from _trace(note, is_edit=of_edit)
        edited = _edited(note)
        if edited is not None:
            yield Trace(edited, {}, is_edit=False)


def _edited(note: dict[str, Any]) -> Millis | None:
    """When a person's comment was changed after it was made; None where it never was."""
    made, changed = times.parse(note.get("created_at")), times.parse(note.get("updated_at"))
    if made is None or changed is None or note.get("system") or changed - made < SECOND:
        return None
    return changed


def _explained(at: Millis, moments: list[Any]) -> bool:
    """Whether one of these is so near that it explains a change: a comment's time moves when its thread is resolved,
    and when it is given an emoji (an issue's or a merge request's does not).
    """
    return any(abs(at - moment) <= EXPLAINED for text in moments if (moment := times.parse(text)) is not None)


def _own_times(record: dict[str, Any]) -> list[Millis]:
    """What the object itself says of its changes that other sources tell."""
    found = (times.parse(record.get(field)) for field in ("created_at", "closed_at", "merged_at"))
    return [at for at in found if at is not None]


def _saves(edits: list[Trace]) -> list[Trace]:
    """Join what was one save."""
    saves: list[Trace] = []
    for trace in sorted(edits, key=lambda t: t.at):
        last = saves[-1] if saves else None
        if last is not None and trace.at - last.at <= ONE_SAVE and _same_person(last.author, trace.author):
            author, changes = last.author or trace.author, _joined(last.changes, trace.changes)
            saves[-1] = Trace(last.at, author, True, changes, last.oldrev or trace.oldrev)
        else:
            saves.append(Trace(trace.at, trace.author, True, _joined({}, trace.changes), trace.oldrev))
    return saves


def _same_person(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return not one or not other or one.get("id") == other.get("id")


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Changes of one save, by field: what was added to it and what was removed, each a list."""
    joined = {field: {did: list(what) for did, what in of.items()} for field, of in old.items()}
    for field, of in new.items():
        for did, what in of.items():
            joined.setdefault(field, {}).setdefault(str(did), []).extend(what if isinstance(what, list) else [what])
    return joined


def _changes(trace: Trace, record: dict[str, Any]) -> Any:
    """The webhook's `changes`, as far as GitLab still tells: labels and milestone, before and after."""
    changes: dict[str, Any] = {"updated_at": {"previous": UNKNOWN, "current": parts.when(times.iso(trace.at))}}
    did = trace.changes.get("labels")
    if did is not None:
        now = [label for label in record.get("labels", []) if isinstance(label, dict)]
        added = {label.get("id") for label in did.get("add", []) if label}
        before = [label for label in now if label.get("id") not in added]
        before += [label for label in did.get("remove", []) if label]
        shown = {"previous": before, "current": now}
        changes["labels"] = Guess({when: parts.labels(of, record.get("project_id")) for when, of in shown.items()})
    did = trace.changes.get("milestone_id")
    if did is not None:
        previous, current = did.get("remove", [None])[-1], did.get("add", [None])[-1]
        changes["milestone_id"] = {"previous": previous, "current": current}
    return changes if len(changes) > 1 else Guess(changes)
