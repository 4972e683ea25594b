"""Status: what is known and covered of each project, and what is pending for each destination."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec

from reconciler.events import times
from reconciler.events.sighting import ALERT
from reconciler.events.times import Millis
from reconciler.ledger.alerts import alerts
from reconciler.ledger.coverage.gaps import Gap, gaps
from reconciler.ledger.coverage.hooks import disabled_hooks
from reconciler.ledger.coverage.source_state import covered_through, source_troubles
from reconciler.ledger.coverage.unreadable import UnreadableRow, unreadable
from reconciler.ledger.queue.destinations import DestinationState, destination_states
from reconciler.ledger.queue.in_the_way import InTheWay, in_the_way
from reconciler.ledger.recording.unrecorded import UnrecordedRow, unrecorded
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.schema import OPEN
from reconciler.ledger.views.backlog import Backlog, backlog
from reconciler.ledger.views.copies import Copy, copies
from reconciler.ledger.views.unknowns import Asked, Unknown, unknowns

BACKLOG = f"SELECT count(*), min(event_id) FROM deliveries WHERE destination_id = ? AND {OPEN}"
OPENED_AT = "SELECT opened_at FROM deliveries WHERE event_id = ? AND destination_id = ?"
DEAD_LETTERS = "SELECT count(*) FROM deliveries WHERE destination_id = ? AND state = 'dead'"
LAST_ERROR = """
    SELECT last_error FROM deliveries
     WHERE destination_id = ? AND state = 'retrying' AND last_error IS NOT NULL
     ORDER BY next_attempt_at DESC LIMIT 1
"""
LAST_DEAD_ERROR = """
    SELECT last_error FROM deliveries WHERE destination_id = ? AND state = 'dead' ORDER BY event_id DESC LIMIT 1
"""


class OpenGap(msgspec.Struct, frozen=True):
    """Time that a source has not read completely, `start` included and `end` excluded. See `ledger.coverage.gaps`."""

    source: str
    start: str
    end: str
    why: str
    closable_until: str | None


class HookStatus(msgspec.Struct, frozen=True):
    """A webhook of ours that GitLab has disabled."""

    name: str
    alert_status: str | None
    disabled_until: str | None
    disabled_since: str | None


class ProjectStatus(msgspec.Struct, frozen=True):
    """`covered_through` is up to when all readable sources have been read; if none can be read now, up to when they
    were. `troubles` says what keeps sources from being read; `switched off` means that there is nothing to read.
    """

    id: int
    path: str | None
    last_webhook_at: str | None
    last_poll_at: str | None
    last_poll_error: str | None
    covered_through: str | None
    gaps: list[OpenGap]
    troubles: dict[str, str]
    hooks_disabled: list[HookStatus]


class DestinationStatus(msgspec.Struct, frozen=True):
    """`state` is up, down, paused, or not in the config. `breaker` is the circuit breaker's state. `blocked_by` is
    the event that blocks others, if there is one.
    """

    name: str
    active: bool
    state: str
    breaker: str
    paused_at: str | None
    pending: int
    oldest_pending_at: str | None
    dead_letters: int
    last_error: str | None
    blocked_by: InTheWay | None = None


class Status(msgspec.Struct, frozen=True):
    """What `status` shows: what is not known, the number of events, a row for each project and destination.

    `alerts` are the open ones. `unreadable` are the latest records that could not be understood, `backlog` the
    webhooks that wait to be recorded, `unrecorded` the latest of those that could not be. `copies` are those that
    share a ledger in PostgreSQL, and `unfit` says why one with this config and version could not take it over.
    """

    unknown: list[Unknown]
    events: int
    projects: list[ProjectStatus]
    destinations: list[DestinationStatus]
    alerts: list[str]
    unreadable: list[UnreadableRow]
    backlog: Backlog
    unrecorded: list[UnrecordedRow]
    copies: list[Copy]
    unfit: str | None = None


def status(db: Database, *, asked: Asked, keeps: Mapping[str, Millis], expected: Millis, now: Millis) -> Status:
    """The status of everything.

    `asked` is what the config names, `keeps` how long GitLab keeps what each source reads. Gaps are counted up to
    `expected`: the time up to which a service that works as it should has read everything.
    """
    sql = "SELECT count(*) FROM events WHERE merged_into IS NULL AND kind <> ?"
    events = db.execute(sql, [ALERT]).fetchone()[0]
    projects = _projects(db, gaps(db, keeps=keeps, expected=expected, now=now))
    return Status(
        unknowns(db, asked, now=now),
        events,
        projects,
        destination_statuses(db),
        open_alerts(db),
        unreadable(db),
        backlog(db),
        unrecorded(db),
        copies(db),
    )


def project_rows(db: Database) -> list[dict[str, Any]]:
    """All known projects, by path."""
    return list(db.query("SELECT * FROM projects ORDER BY path IS NOT NULL, path, id"))


def open_alerts(db: Database) -> list[str]:
    """The open alerts, in sentences."""
    return [row["text"] for row in alerts(db) if row["over_at"] is None]


def destination_statuses(db: Database) -> list[DestinationStatus]:
    """What is pending for each destination, and its state."""
    return [_destination(db, one) for one in destination_states(db)]


def _projects(db: Database, found: list[Gap]) -> list[ProjectStatus]:
    """All projects. The number of queries does not depend on how many there are."""
    by_project: dict[int, list[OpenGap]] = defaultdict(list)
    for gap in found:
        by_project[gap.project_id].append(_open_gap(gap))
    disabled: dict[int, list[HookStatus]] = defaultdict(list)
    for hook in disabled_hooks(db):
        shown = HookStatus(hook.name, hook.alert_status, hook.disabled_until, hook.disabled_since)
        disabled[hook.project_id].append(shown)
    through, troubles = covered_through(db), source_troubles(db)
    return [
        ProjectStatus(
            id=row["id"],
            path=row["path"],
            last_webhook_at=row["last_webhook_at"],
            last_poll_at=row["last_poll_at"],
            last_poll_error=row["last_poll_error"],
            covered_through=through.get(row["id"]),
            gaps=by_project.get(row["id"], []),
            troubles=troubles.get(row["id"], {}),
            hooks_disabled=disabled.get(row["id"], []),
        )
        for row in project_rows(db)
    ]


def _open_gap(gap: Gap) -> OpenGap:
    until = None if gap.closable_until is None else times.iso(gap.closable_until)
    return OpenGap(gap.source, times.iso(gap.during.start), times.iso(gap.during.end), gap.why, until)


def _destination(db: Database, at: DestinationState) -> DestinationStatus:
    def one(sql: str, *values: int) -> Any:
        row = db.execute(sql, [*values, at.id]).fetchone()
        return None if row is None else row[0]

    pending, oldest = db.execute(BACKLOG, [at.id]).fetchone()

    return DestinationStatus(
        name=at.name,
        active=at.active,
        state=at.state,
        breaker=at.breaker.state,
        paused_at=None if at.paused_at is None else times.iso(at.paused_at),
        pending=pending,
        oldest_pending_at=None if oldest is None else one(OPENED_AT, oldest),
        dead_letters=one(DEAD_LETTERS),
        last_error=one(LAST_ERROR) or one(LAST_DEAD_ERROR),
        blocked_by=in_the_way(db, at.id, at.name),
    )
