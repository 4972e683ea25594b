"""Edits of issues, merge requests and comments, and emoji: the Events API has no records of them.

GitLab's lists show when each object last changed. `change_hints` finds out what changed, from label and milestone
events, a merge request's versions, and system notes. A change without a hint is reported with unknown changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from reconciler.events import keys, times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.events.times import SECOND, Millis
from reconciler.reconstruct import SourceData
from reconciler.sources import answers
from reconciler.sources.change_hints import ChangeHint, edit_batches, edited_at, hints_at, note_hints, webhook_changes
from reconciler.sources.checked import Page, Read, moment
from reconciler.sources.details import Details
from reconciler.sources.listing import Listing, Reading
from reconciler.sources.source import Project

EXPLAINED = Millis(3 * SECOND)
"""A hint this close to an `updated_at` explains it."""


class Edits(Listing[answers.Work]):
    """Reads the objects that changed, and the hints at each change. Subclasses say which objects."""

    kind: str
    folder: str
    shape = answers.Work
    once_per_version = True

    def pages(self, project: Project, part: Interval) -> Iterator[Page[answers.Work]]:
        query = {"scope": "all", "with_labels_details": "true"}
        return self.changed(f"/projects/{project.id}/{self.folder}", project, part, query)

    def sightings(self, reading: Reading, record: Read[answers.Work]) -> Iterator[Sighting]:
        part = reading.part
        changed_at = moment(record.shown.updated_at, "updated_at")
        path = f"/{self.folder}/{record.shown.iid}"
        notes = list(self._notes(reading, record, path, since=min(part.start, Millis(changed_at - EXPLAINED))))
        hints = [*self._hints(path, reading.details), *note_hints(notes)]
        if all(abs(changed_at - at) > EXPLAINED for at in [hint.at for hint in hints] + _own_times(record.shown)):
            hints.append(ChangeHint(changed_at, {}, is_edit=True))
        for hint in edit_batches([one for one in hints if one.is_edit and part.start <= one.at < part.end]):
            yield self._update(reading, record, hint)
        awards = reading.details.all(f"{path}/award_emoji", answers.Award) or []
        for note in notes:
            edited = edited_at(note.shown)
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
        """The notes on an object that were made or changed since then."""
        query = {"order_by": "updated_at", "sort": "desc"}
        place = f"/projects/{reading.project.id}{path}/notes"
        for page in self.below(reading, record, place, answers.Note, query):
            for note in page.records:
                if (times.parse(note.shown.updated_at) or since) < since:
                    return
                yield note

    def _hints(self, path: str, details: Details) -> Iterator[ChangeHint]:
        for label in details.all(f"{path}/resource_label_events", answers.LabelEvent) or ():
            changes = {"labels": {label.shown.action: label.raw.get("label")}}
            yield from hints_at(label.shown.created_at, label.shown.user, is_edit=True, changes=changes)
        for event in details.all(f"{path}/resource_milestone_events", answers.MilestoneEvent) or ():
            milestone = None if event.shown.milestone is None else event.shown.milestone.id
            changes = {"milestone_id": {event.shown.action: milestone}}
            yield from hints_at(event.shown.created_at, event.shown.user, is_edit=True, changes=changes)
        for state in details.all(f"{path}/resource_state_events", answers.StateEvent) or ():
            yield from hints_at(state.shown.created_at, state.shown.user, is_edit=False)

    def _update(self, reading: Reading, record: Read[answers.Work], hint: ChangeHint) -> Sighting:
        ident = record.shown.id
        reported = {"created_at": times.iso(hint.at), "author": hint.author, "target_id": ident, "object": record.raw}
        more: dict[str, Any] = {"changes": webhook_changes(hint, record.raw)}
        if hint.oldrev is not None:
            more["oldrev"] = hint.oldrev
        project = reading.project.shown
        data = SourceData(record=reported, project=project, action="update", object=record.raw, more=more)
        key = keys.listed(self.kind, ident, "update")
        return self.make_sighting(reading.unreadable, self.kind, f"{ident}:{hint.at}", key, hint.at, data)

    def _note_edit(
        self, reading: Reading, note: Read[answers.Note], edited: Millis, record: Read[answers.Work]
    ) -> Sighting:
        reported, ident = {"created_at": note.shown.updated_at, "note": note.raw}, note.shown.id
        more, project = {"noteable": record.raw}, reading.project.shown
        data = SourceData(record=reported, project=project, action="update", more=more)
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
    """`GET /projects/:id/merge_requests?updated_after=`, and the versions that pushes to their branches made."""

    name = "merge_requests"
    kind = "merge_request"
    folder = "merge_requests"

    def _hints(self, path: str, details: Details) -> Iterator[ChangeHint]:
        yield from super()._hints(path, details)
        shown = [version.shown for version in details.all(f"{path}/versions", answers.RequestVersion) or ()]
        for before, version in itertools.pairwise(sorted(shown, key=lambda v: v.id)):
            yield from hints_at(version.created_at, None, is_edit=True, oldrev=before.head_commit_sha)


def _explained(at: Millis, moments: list[str | None]) -> bool:
    """Whether one of these times is close enough to explain a change: a comment's `updated_at` changes when its
    thread is resolved and when it gets an emoji. (That of an issue or merge request does not.)
    """
    return any(abs(at - moment) <= EXPLAINED for text in moments if (moment := times.parse(text)) is not None)


def _own_times(shown: answers.Work) -> list[Millis]:
    """The object's own times of changes that other sources report, or that are no edits: GitLab prepares a merge
    request seconds after its creation (`app/services/merge_requests/after_create_service.rb`).
    """
    found = (times.parse(text) for text in (shown.created_at, shown.prepared_at, shown.closed_at, shown.merged_at))
    return [at for at in found if at is not None]
