"""Hints at changes of an issue or merge request, and the edits that they add up to.

GitLab does not list edits. It leaves hints: label and milestone events, a merge request's versions, and system notes.
All hints of one person at one object within two seconds are one edit, which GitLab reported with one webhook.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from reconciler.events import times
from reconciler.events.times import SECOND, Millis
from reconciler.reconstruct import common
from reconciler.reconstruct.source_data import UNKNOWN, Guess
from reconciler.sources import answers
from reconciler.sources.answers import Json
from reconciler.sources.checked import Read
from reconciler.sources.system_notes import system_note

BATCH_WINDOW = Millis(2 * SECOND)
"""Hints of one person that are this close in time belong to one edit."""


class ChangeHint(msgspec.Struct, frozen=True):
    """A sign of a change: when, by whom, and what changed. `is_edit`: GitLab sent an `update` webhook."""

    at: Millis
    author: Json
    is_edit: bool
    changes: dict[str, Any] = {}
    oldrev: str | None = None


def hints_at(
    created_at: str | None,
    author: Json | None,
    *,
    is_edit: bool,
    changes: dict[str, Any] | None = None,
    oldrev: str | None = None,
) -> Iterator[ChangeHint]:
    """The hint of a record of GitLab's; none if its time can't be read."""
    at = times.parse(created_at)
    if at is not None:
        yield ChangeHint(at, author or {}, is_edit, changes or {}, oldrev)


def note_hints(notes: list[Read[answers.Note]]) -> Iterator[ChangeHint]:
    """The hints of notes. System notes report edits and other changes; people's notes only explain why `updated_at`
    changed. A system note that is not in the table counts as an edit.
    """
    for note in notes:
        known = system_note(note.shown.body)
        of_edit = bool(note.shown.system) and (known is None or known.reports_edit)
        yield from hints_at(note.shown.created_at, note.shown.author, is_edit=of_edit)
        edited = edited_at(note.shown)
        if edited is not None:
            yield ChangeHint(edited, {}, is_edit=False)


def edited_at(note: answers.Note) -> Millis | None:
    """When a person's comment was edited; None if it never was."""
    made, changed = times.parse(note.created_at), times.parse(note.updated_at)
    if made is None or changed is None or note.system or changed - made < SECOND:
        return None
    return changed


def edit_batches(edits: list[ChangeHint]) -> list[ChangeHint]:
    """Merge the hints that belong to one edit."""
    batches: list[ChangeHint] = []
    for hint in sorted(edits, key=lambda hint: hint.at):
        last = batches[-1] if batches else None
        if last is not None and hint.at - last.at <= BATCH_WINDOW and _same_person(last.author, hint.author):
            author, changes = last.author or hint.author, _merged(last.changes, hint.changes)
            batches[-1] = ChangeHint(last.at, author, True, changes, last.oldrev or hint.oldrev)
        else:
            batches.append(ChangeHint(hint.at, hint.author, True, _merged({}, hint.changes), hint.oldrev))
    return batches


def _same_person(one: Json, other: Json) -> bool:
    return not one or not other or one.get("id") == other.get("id")


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge the changes of one edit by field: lists of what was added and what was removed."""
    merged = {field: {did: list(what) for did, what in of.items()} for field, of in old.items()}
    for field, of in new.items():
        for did, what in of.items():
            merged.setdefault(field, {}).setdefault(str(did), []).extend(what if isinstance(what, list) else [what])
    return merged


def webhook_changes(hint: ChangeHint, record: dict[str, Any]) -> Any:
    """The webhook's `changes` as far as GitLab still shows them: labels and milestone, before and after."""
    changes: dict[str, Any] = {"updated_at": {"previous": UNKNOWN, "current": common.when(times.iso(hint.at))}}
    did = hint.changes.get("labels")
    if did is not None:
        now = [label for label in (record.get("labels") or []) if isinstance(label, dict)]
        added = {label.get("id") for label in did.get("add", []) if label}
        before = [label for label in now if label.get("id") not in added]
        before += [label for label in did.get("remove", []) if label]
        shown = {"previous": before, "current": now}
        changes["labels"] = Guess({when: common.labels(of, record.get("project_id")) for when, of in shown.items()})
    did = hint.changes.get("milestone_id")
    if did is not None:
        previous, current = did.get("remove", [None])[-1], did.get("add", [None])[-1]
        changes["milestone_id"] = {"previous": previous, "current": current}
    return changes if len(changes) > 1 else Guess(changes)
