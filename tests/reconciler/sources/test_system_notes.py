"""The notes that GitLab writes of edits and of much else: which go with a webhook, and so are told."""

from __future__ import annotations

import pytest

from reconciler.events.times import MINUTE, SECOND
from reconciler.sources.system_notes import SYSTEM_NOTES, SystemNote, system_note
from tests.reconciler.sources.conftest import NOW, Scene
from tests.support.made import check_made


@pytest.mark.parametrize("row", SYSTEM_NOTES, ids=lambda row: row.example[:30])
def test_each_example_is_of_its_own_row(row: SystemNote) -> None:
    assert system_note(row.example) is row


@pytest.mark.parametrize("row", SYSTEM_NOTES, ids=lambda row: row.example[:30])
def test_a_note_is_told_as_an_edit_where_a_webhook_goes_with_it(scene: Scene, row: SystemNote) -> None:
    request = scene.world.merge_request(42)
    scene.later(10 * MINUTE)
    scene.world.system_note(42, request, row.example)
    told = scene.read("merge_requests", NOW - MINUTE)
    assert [one.summary.action for one in told] == (["update"] if row.reports_edit else [])


def test_a_note_that_nobody_knows_is_told(scene: Scene) -> None:
    """A newer GitLab's, or one in the language of who did it: something was changed, what is not known."""
    request = scene.world.merge_request(42)
    scene.later(10 * MINUTE)
    who = scene.world.people[2]
    scene.world.system_note(42, request, "a demandé une relecture de @ada", who)
    scene.later(10 * MINUTE)
    scene.world.note(42, on=request)
    [told] = scene.read("merge_requests", NOW - MINUTE)
    assert told.summary.author == who.username
    assert told.recovery is not None
    assert "changes" in told.recovery.unknown


def test_a_comment_that_reads_like_a_note_is_none(scene: Scene) -> None:
    request = scene.world.merge_request(42)
    scene.later(10 * MINUTE)
    scene.world.note(42, "resolved all threads", on=request)
    assert scene.read("merge_requests", NOW - MINUTE) == []


def test_a_merge_request_that_is_prepared_was_not_edited(scene: Scene) -> None:
    request = scene.world.merge_request(42)
    scene.later(17 * SECOND)
    scene.world.prepare(request)
    assert scene.read("merge_requests", NOW - MINUTE) == []
    scene.later(MINUTE)
    scene.world.merge_request_does(42, request, "update", edit="silent")
    assert len(scene.read("merge_requests", NOW - MINUTE)) == 1


def test_the_page_of_system_notes() -> None:
    lines = ["| a note like | webhook | read in | |", "|---|---|---|---|"]
    for row in SYSTEM_NOTES:
        example = row.example.replace("|", "\\|")
        shown = f"`` {example} ``" if "`" in example else f"`{example}`"
        lines.append(f"| {shown} | {row.fires} | `{row.source}` | {row.why} |")
    check_made("system-notes.md", lines)
