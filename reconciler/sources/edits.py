"""Edits of issues and merge requests, edits of comments, emoji: what no record of the Events API tells.

GitLab's lists say which object changed last when. What changed is pieced together: label and milestone events,
a merge request's versions, and the notes that GitLab writes of edits (`system_notes`). Everything that one person
did to one object within two seconds was one save, and one webhook. A change that nothing explains is told as one of
which what changed is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec

from reconciler.events import keys, times
from reconciler.events.sighting import Sighting
from reconciler.events.times import SECOND, Millis
from reconciler.ledger.coverage.intervals import Interval
from reconciler.reconstruct import SourceData, parts
from reconciler.reconstruct.source_data import UNKNOWN, Guess
from reconciler.sources import answers
from reconciler.sources.answers import Json
from reconciler.sources.checked import Page, Read, moment
from reconciler.sources.details import Details
from reconciler.sources.listing import Listing, Reading
from reconciler.sources.source import Project
from reconciler.sources.system_notes import system_note

ONE_SAVE = Millis(2 * SECOND)
"""Traces so near each other, of one person, are of one save."""
EXPLAINED = Millis(3 * SECOND)
"""An `updated_at` so near a known trace needs no other explanation."""


class Trace(msgspec.Struct, frozen=True):
    """Something that tells of a change: when, by whom, and what it did to the fields."""

    at: Millis
    author: Json
    is_edit: bool
    changes: dict[str, Any] = {}
    oldrev: str | None = None


class Edits(Listing[answers.Work]):
    """Reads the objects that changed, and for each what explains the change. A subclass says which objects."""

    kind: str
    folder: str
    shape = answers.Work
    once_a_version = True

    def pages(self, project: Project, part: Interval) -> Iterator[Page[answers.Work]]:
        query = {"scope": "all", "with_labels_details": "true"}
        return self.changed(f"/projects/{project.id}/{self.folder}", project, part, query)

    def sightings(self, reading: Reading, record: Read[answers.Work]) -> Iterator[Sighting]:
        part = reading.part
        changed_at = moment(record.shown.updated_at, "updated_at")
        path = f"/{self.folder}/{record.shown.iid}"
        notes = list(self._notes(reading, record, path, since=min(part.start, Millis(changed_at - EXPLAINED))))
        traces = [*self._traces(path, reading.details), *_note_traces(notes)]
        if all(abs(changed_at - at) > EXPLAINED for at in [t.at for t in traces] + _own_times(record.shown)):
            traces.append(Trace(changed_at, {}, is_edit=True))
        for trace in _saves([t for t in traces if t.is_edit and part.start <= t.at < part.end]):
            yield self._update(reading, record, trace)
        awards = reading.details.all(f"{path}/award_emoji", answers.Award) or []
        for note in notes:
            edited = _edited(note.shown)
            if edited is not None and part.start <= edited < part.end:
                on_note = reading.details.all(f"{path}/notes/{note.ident}/award_emoji", answers.Award) or []
                awards = [*awards, *on_note]
                explained = [note.shown.resolved_at, *(award.shown.created_at for award in on_note)]
                if not _explained(edited, explained):
                    yield self._note_edit(reading, note, edited, record)
        for award in awards:
            yield from self._emoji(reading, award, record)

    def _notes(
        self, reading: Reading, record: Read[answers.Work], path: str, *, since: Millis
    ) -> Iterator[Read[answers.Note]]:
        """The notes on something that were made or changed since then."""
        query = {"order_by": "updated_at", "sort": "desc"}
        place = f"/projects/{reading.project.id}{path}/notes"
        for page in self.below(reading, record, place, answers.Note, query):
            for note in page.records:
                if (times.parse(note.shown.updated_at) or since) < since:
                    return
                yield note

    def _traces(self, path: str, details: Details) -> Iterator[Trace]:
        for label in details.all(f"{path}/resource_label_events", answers.LabelEvent) or ():
            changes = {"labels": {label.shown.action: label.raw.get("label")}}
            yield from _trace(label.shown.created_at, label.shown.user, is_edit=True, changes=changes)
        for event in details.all(f"{path}/resource_milestone_events", answers.MilestoneEvent) or ():
            milestone = None if event.shown.milestone is None else event.shown.milestone.id
            changes = {"milestone_id": {event.shown.action: milestone}}
            yield from _trace(event.shown.created_at, event.shown.user, is_edit=True, changes=changes)
        for state in details.all(f"{path}/resource_state_events", answers.StateEvent) or ():
            yield from _trace(state.shown.created_at, state.shown.user, is_edit=False)

    def _update(self, reading: Reading, record: Read[answers.Work], trace: Trace) -> Sighting:
        ident = record.shown.id
        told = {"created_at": times.iso(trace.at), "author": trace.author, "target_id": ident, "object": record.raw}
        more: dict[str, Any] = {"changes": _changes(trace, record.raw)}
        if trace.oldrev is not None:
            more["oldrev"] = trace.oldrev
        project = reading.project.shown
        data = SourceData(record=told, project=project, action="update", object=record.raw, more=more)
        key = keys.listed(self.kind, ident, "update")
        return self.make_sighting(reading.unreadable, self.kind, f"{ident}:{trace.at}", key, trace.at, data)

    def _note_edit(
        self, reading: Reading, note: Read[answers.Note], edited: Millis, record: Read[answers.Work]
    ) -> Sighting:
        told, ident = {"created_at": note.shown.updated_at, "note": note.raw}, note.shown.id
        more, project = {"noteable": record.raw}, reading.project.shown
        data = SourceData(record=told, project=project, action="update", more=more)
        key = keys.listed("note", ident, "update")
        return self.make_sighting(reading.unreadable, "note", f"note:{ident}:{edited}", key, edited, data)

    def _emoji(self, reading: Reading, award: Read[answers.Award], record: Read[answers.Work]) -> Iterator[Sighting]:
        ident, at = award.shown.id, moment(award.shown.created_at, "created_at")
        if reading.part.start <= at < reading.part.end:
            more, project = {"noteable": record.raw}, reading.project.shown
            data = SourceData(record=award.raw, project=project, action="award", more=more)
            key = keys.listed("emoji", ident, "award")
            yield self.make_sighting(reading.unreadable, "emoji", f"emoji:{ident}", key, at, data, once=True)


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

    def _traces(self, path: str, details: Details) -> Iterator[Trace]:
        yield from super()._traces(path, details)
        shown = [version.shown for version in details.all(f"{path}/versions", answers.RequestVersion) or ()]
        for before, version in itertools.pairwise(sorted(shown, key=lambda v: v.id)):
            yield from _trace(version.created_at, None, is_edit=True, oldrev=before.head_commit_sha)


def _trace(
    created_at: str | None,
    author: Json | None,
    *,
    is_edit: bool,
    changes: dict[str, Any] | None = None,
    oldrev: str | None = None,
) -> Iterator[Trace]:
    at = times.parse(created_at)
    if at is not None:
        yield Trace(at, author or {}, is_edit, changes or {}, oldrev)


def _note_traces(notes: list[Read[answers.Note]]) -> Iterator[Trace]:
    """System notes tell of edits and of much else; people's notes only explain why the object was touched. A system
    note that is not in the table may be of an edit.
    """
    for note in notes:
        known = system_note(note.shown.body)
        of_edit = bool(note.shown.system) and (known is None or known.reports_edit)
        yield from _trace(note.shown.created_at, note.shown.author, is_edit=of_edit)
        edited = _edited(note.shown)
        if edited is not None:
            yield Trace(edited, {}, is_edit=False)


def _edited(note: answers.Note) -> Millis | None:
    """When a person's comment was changed after it was made; None where it never was."""
    made, changed = times.parse(note.created_at), times.parse(note.updated_at)
    if made is None or changed is None or note.system or changed - made < SECOND:
        return None
    return changed


def _explained(at: Millis, moments: list[str | None]) -> bool:
    """Whether one of these is so near that it explains a change: a comment's time moves when its thread is resolved,
    and when it is given an emoji (an issue's or a merge request's does not).
    """
    return any(abs(at - moment) <= EXPLAINED for text in moments if (moment := times.parse(text)) is not None)


def _own_times(shown: answers.Work) -> list[Millis]:
    """What the object itself says of changes that other sources tell, or that are none: GitLab prepares a merge
    request seconds after it was made (`app/services/merge_requests/after_create_service.rb`).
    """
    found = (times.parse(text) for text in (shown.created_at, shown.prepared_at, shown.closed_at, shown.merged_at))
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


def _same_person(one: Json, other: Json) -> bool:
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
        now = [label for label in (record.get("labels") or []) if isinstance(label, dict)]
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
