"""The table of system notes on issues and merge requests, and which of them come with a webhook.

It is from GitLab's source: `source` is the file that writes the note, or that decides whether there is a webhook.
Notes are in English, except a few in the language of their author: those match no row, nor do notes of a newer
GitLab. docs/system-notes.md is generated from this table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Fires = Literal["yes", "sometimes", "no"]
"""Whether an `update` webhook comes with the note. `sometimes`: only in some versions of GitLab, or for some ways of
making the change, which the note does not show. An update is then reported, because a duplicate is better than a
loss.
"""


@dataclass(frozen=True, slots=True)
class SystemNote:
    """One kind of note: a regular expression for its beginning, and an example."""

    starts: str
    example: str
    fires: Fires
    source: str
    why: str = ""
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.starts))

    @property
    def reports_edit(self) -> bool:
        """Whether GitLab sends, or may send, an `update` webhook."""
        return self.fires != "no"


def system_note(text: str | None) -> SystemNote | None:
    """The row that matches a note's text; None if none does."""
    return next((row for row in SYSTEM_NOTES if row.pattern.match(text or "")), None)


_NOTES = "app/services/system_notes/"
_EE_NOTES = "ee/app/services/ee/system_notes/"
_ISSUABLES, _REQUESTS = f"{_NOTES}issuables_service.rb", f"{_NOTES}merge_requests_service.rb"
_EE_ISSUABLES, _EE_REQUESTS = f"{_EE_NOTES}issuables_service.rb", f"{_EE_NOTES}merge_requests_service.rb"
_TIME, _INCIDENT = f"{_NOTES}time_tracking_service.rb", f"{_NOTES}incident_service.rb"
_DESIGNS = f"{_NOTES}design_management_service.rb"
_UPDATE = "app/services/issuable_base_service.rb"
_REFRESH = "app/services/merge_requests/refresh_service.rb"
_REVIEW = "app/services/merge_requests/update_reviewer_state_service.rb"
_LINKS = "app/services/issuable_links/create_service.rb"
_PARENTS = "app/services/work_items/parent_links/base_service.rb"
_AUTO_MERGE = "app/services/auto_merge/base_service.rb"
_EDITED = "only where the item itself is edited; linking from the other side sends none"
_REVIEWED = "since gitlab-org/gitlab!246562 (GitLab 19); before, none was sent"

# fmt: off
SYSTEM_NOTES: tuple[SystemNote, ...] = (
    # Not edits, though some begin like one.
    SystemNote(r"changed this (line|file) in ",
               "changed this line in [version 3 of the diff](/g/p/-/merge_requests/1/diffs?diff_id=3)",
               "no", _REQUESTS, "the push that moved the line has a webhook of its own"),
    SystemNote(r"marked this .+ as related to ", "marked this issue as related to #2", "no", _LINKS),
    SystemNote(r"marked this .+ as (blocking|blocked by) ", "marked this issue as blocked by #2", "no", _LINKS),
    SystemNote(r"removed the relation with ", "removed the relation with #2",
               "no", "app/services/issuable_links/destroy_service.rb"),
    SystemNote(r"marked (this .+ as a duplicate of|.+ as a duplicate of this) ",
               "marked this issue as a duplicate of #2",
               "no", "app/services/issues/duplicate_service.rb",
               "the duplicate is closed, which has a webhook of its own"),
    SystemNote(r"(added|changed|updated|removed) \[?\d+ designs?\b",
               "removed [2 designs](/g/p/-/issues/1/designs?version=4)", "no", _DESIGNS),
    SystemNote(r"started a discussion on ", "started a discussion on [a.png](/g/p/-/issues/1/designs/a.png#note_3)",
               "no", _DESIGNS),
    SystemNote(r"(added|edited|deleted) .*incident timeline event", "deleted an incident timeline event",
               "no", f"{_NOTES}incidents_service.rb"),
    SystemNote(r"(added|removed) a Zoom call ", "removed a Zoom call from this issue",
               "no", f"{_NOTES}zoom_service.rb"),
    SystemNote(r"(added|removed) a \S+ link$", "removed a resource link",
               "no", f"{_NOTES}issuable_resource_links_service.rb"),
    SystemNote(r"(added|removed|unsubscribed) [^\s@]+@\S+", "removed ada@example.com",
               "no", "app/services/issue_email_participants/base_service.rb"),
    SystemNote(r"deleted .+ of spent time from ", "deleted 1h of spent time from 2026-11-24 12:00:00 UTC",
               "no", "app/services/timelogs/delete_service.rb"),
    SystemNote(r"(enabled (an )?automatic|aborted (the )?automatic|started a merge train)",
               "enabled an automatic merge when all merge checks for 1a2b3c4d pass", "no", _AUTO_MERGE),
    SystemNote(r"(added|removed) this merge request (to|from) the merge train",
               "removed this merge request from the merge train",
               "no", "ee/app/services/system_notes/merge_train_service.rb"),
    SystemNote(r"mentioned in ", "mentioned in !3", "no", _ISSUABLES),
    SystemNote(r"(moved|cloned) (to|from) ", "moved to other/project#4", "no", "app/services/issues/move_service.rb"),
    SystemNote(r"promoted (to|from) ", "promoted to epic &3",
               "no", "ee/app/services/epics/issue_promote_service.rb",
               "the issue is closed, which has a webhook of its own"),
    SystemNote(r"(closed|reopened|merged)\b", "closed via !3", "no", _ISSUABLES, "it has a webhook of its own"),
    SystemNote(r"(approved|unapproved) this ", "unapproved this merge request",
               "no", _REQUESTS, "it has a webhook of its own"),
    SystemNote(r"reset approvals from ", "reset approvals from @ada by pushing to the branch",
               "no", _EE_REQUESTS, "the removed approvals have webhooks of their own"),
    SystemNote(r"added \d+ commits?\b", "added 2 commits", "no", _REFRESH, "the push has a webhook of its own"),
    SystemNote(r"created (branch|merge request|incident|\S+ to continue) ?",
               "created branch [`1-a-bug`](/g/p/-/compare/main...1-a-bug) to address this issue", "no", _REQUESTS),
    SystemNote(r"picked the changes into ",
               "picked the changes into the branch [`stable`](/g/p/-/tree/stable) with commit 1a2b3c4d",
               "no", _REQUESTS),
    SystemNote(r"published this issue ", "published this issue to the status page", "no", _EE_ISSUABLES),
    SystemNote(r"(sent .+ request to Amazon Q|is reviewing your |is working on a reply|started .+ will let you know)",
               "is reviewing your merge request and will let you know when it's finished", "no", _EE_REQUESTS),
    SystemNote(r"notified .+ via escalation policy|started escalation ",
               "notified @ada of this incident via escalation policy **Nights**",
               "no", "ee/app/services/system_notes/escalations_service.rb"),
    # Edits in some versions of GitLab, or if made in some ways.
    SystemNote(r"requested changes$", "requested changes", "sometimes", _REVIEW, _REVIEWED),
    SystemNote(r"left review comments", "left review comments", "sometimes", _REVIEW, _REVIEWED),
    SystemNote(r"cancell?ed (the )?automatic ", "canceled the automatic merge",
               "sometimes", _AUTO_MERGE, "not in every version"),
    SystemNote(r"added \S+ as (child|parent) ", "added #2 as child task", "sometimes", _PARENTS, _EDITED),
    SystemNote(r"removed (child|parent) ", "removed child task #2",
               "sometimes", "app/services/work_items/parent_links/destroy_service.rb", _EDITED),
    SystemNote(r"(added to|removed from|changed) epic ", "added to epic &3",
               "sometimes", "ee/app/services/epic_issues/create_service.rb", _EDITED),
    SystemNote(r"(added|removed) \d+ contacts?\b", "added 2 contacts",
               "sometimes", "app/services/issues/set_crm_contacts_service.rb", "only where the issue is edited"),
    SystemNote(r"changed the (incident )?status ", "changed the incident status to **Acknowledged**",
               "sometimes", _INCIDENT, "only where the incident is edited"),
    # Edits.
    SystemNote(r"changed title from ", "changed title from **Old** to **New**", "yes", _UPDATE),
    SystemNote(r"changed the description", "changed the description", "yes", _UPDATE),
    SystemNote(r"marked the (checklist item|task) ", "marked the checklist item **Ship it** as completed",
               "yes", _UPDATE),
    SystemNote(r"(assigned to|unassigned|removed assignee|removed all assignees)\b",
               "assigned to @ada and unassigned @grace", "yes", _UPDATE),
    SystemNote(r"(requested review from|removed review request for) ", "requested review from @ada",
               "yes", _UPDATE, "asking again for a review: since GitLab 18.6"),
    SystemNote(r"(changed|removed) milestone\b", "removed milestone",
               "yes", _UPDATE, "in old versions; newer ones have a milestone event"),
    SystemNote(r"made the .+ (confidential|visible)", "made the issue confidential", "yes", _UPDATE),
    SystemNote(r"(locked|unlocked) (the discussion in )?this ", "locked the discussion in this issue",
               "yes", _UPDATE),
    SystemNote(r"changed type from ", "changed type from issue to incident", "yes", _UPDATE),
    SystemNote(r"(changed|removed) (start|due) date\b",
               "changed start date to September 20, 2026 and removed due date September 25, 2026", "yes", _TIME),
    SystemNote(r"(added|changed|removed) time estimate\b", "added time estimate of 3d 5h", "yes", _TIME),
    SystemNote(r"((added|subtracted) .+ of time spent|removed time spent)",
               "subtracted 1h 15m of time spent at 2026-11-24 12:00:00 UTC", "yes", _TIME),
    SystemNote(r"(changed|removed) (the )?(health status|weight|iteration|progress|color)\b",
               "changed health status to **at risk**", "yes", _EE_ISSUABLES),
    SystemNote(r"(set (color|status) to |set an? .+ checkin reminder|removed the checkin reminder)",
               "set status to **Done**", "yes", _EE_ISSUABLES),
    SystemNote(r"<div>(changed|removed) ", '<div>changed Team to <code class="idiff">Red</code></div>',
               "yes", _EE_ISSUABLES, "a custom field"),
    SystemNote(r"changed the severity ", "changed the severity to **High - S2**", "yes", _INCIDENT),
    SystemNote(r"(un)?marked (this merge request )?as (a )?\*\*",
               "marked this merge request as **draft** from 1a2b3c4d",
               "yes", _UPDATE, "if a commit made it a draft, the push sends it"),
    SystemNote(r"changed (source|target) branch ", "changed target branch from `main` to `next`", "yes", _UPDATE),
    SystemNote(r"deleted the .+ branch\. This merge request now targets ",
               "deleted the `next` branch. This merge request now targets the `main` branch",
               "yes", "app/services/merge_requests/retarget_chain_service.rb"),
    SystemNote(r"(deleted|restored) (source|target) branch ", "deleted source branch `topic`",
               "yes", _REFRESH, "for each open merge request of the branch"),
    SystemNote(r"resolved all (threads|discussions)", "resolved all threads",
               "yes", "app/services/merge_requests/resolved_discussion_notification_service.rb"),
    SystemNote(r"(bypassed reviews on|removed the bypass on) this ", "bypassed reviews on this merge request",
               "yes", _EE_REQUESTS),
)
# fmt: on
"""The first row that matches counts."""
