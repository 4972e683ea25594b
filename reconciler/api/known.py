"""The shapes of answers about what is known: status, projects, coverage, gaps and runs. As in `models`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from reconciler.api.models import Answer, DestinationStatus


class Unknown(Answer):
    """Something that is not known, why, and what to do."""

    kind: str
    name: str
    of: Any
    trouble: str
    why: str
    since: str | None
    pending: bool
    count: int
    own_since: str | None


class OpenGap(Answer):
    """Time that a source has not read completely."""

    source: str
    start: str
    end: str
    why: str
    closable_until: str | None


class HookStatus(Answer):
    """A webhook of ours that GitLab has disabled."""

    name: str
    alert_status: str | None
    disabled_until: str | None
    disabled_since: str | None


class ProjectStatus(Answer):
    """A project: when it was last heard of, up to when it is covered, and what is missing."""

    id: int
    path: str | None
    last_webhook_at: str | None
    last_poll_at: str | None
    last_poll_error: str | None
    covered_through: str | None
    gaps: list[OpenGap]
    troubles: dict[str, str]
    hooks_disabled: list[HookStatus]


class Projects(Answer):
    """All known projects, by path."""

    projects: list[ProjectStatus]


class UnreadableRow(Answer):
    """A record of GitLab's API that could not be understood."""

    project_id: int
    source: str
    record_id: str
    error: str
    raw: str
    first_seen_at: str
    last_seen_at: str


class Backlog(Answer):
    """The webhooks that wait to be recorded."""

    waiting: int
    oldest_at: str | None
    error: str | None


class UnrecordedRow(Answer):
    """A webhook that was acknowledged and could not be recorded."""

    id: int
    received_at: str
    hook: str
    bytes: int
    error: str
    tried_at: str
    tries: int
    due: bool


class Intake(Answer):
    """What was acknowledged and is not recorded."""

    backlog: Backlog
    unrecorded: list[UnrecordedRow]


class Copy(Answer):
    """A copy of the service that shares a ledger in PostgreSQL."""

    host: str
    process: int
    works: bool
    delivers: list[str]


class Status(Answer):
    """An overview of everything."""

    unknown: list[Unknown]
    events: int
    projects: list[ProjectStatus]
    destinations: list[DestinationStatus]
    alerts: list[str]
    unreadable: list[UnreadableRow]
    backlog: Backlog
    unrecorded: list[UnrecordedRow]
    copies: list[Copy]
    unfit: str | None = Field(description="Why a copy with this config could not take over.")


class Gap(Answer):
    """Time that a source of a project has not read completely."""

    project_id: int
    project: str | None
    source: str
    since: str = Field(alias="from")
    to: str
    why: str
    error: str | None
    closable_until: str | None
    final: bool


class SwitchedOff(Answer):
    """What is switched off in a project, so that there is nothing to read."""

    project_id: int
    project: str | None
    sources: list[str]


class Gaps(Answer):
    """What is not known, and the gaps in what is."""

    unknown: list[Unknown]
    gaps: list[Gap]
    switched_off: list[SwitchedOff]


class CoveredInterval(Answer):
    """Time that a source of a project has read completely."""

    project_id: int
    project: str | None
    source: str
    since: str = Field(alias="from")
    through: str


class Coverage(Answer):
    """What was read completely."""

    complete: list[CoveredInterval]


class Run(Answer):
    """One reading of one period of one source."""

    id: int
    project_id: int | None
    path: str | None
    source: str
    purpose: str
    window_from: str | None
    window_through: str | None
    started_at: str
    finished_at: str | None
    seen: int
    known: int
    new: int
    requests: int
    error: str | None


class Runs(Answer):
    """A page of runs, newest first."""

    runs: list[Run]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")
