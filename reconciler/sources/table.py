"""The table of sources: what each reads, what it can rebuild, and what it can't. docs/recovery.md shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.events.times import Millis
from reconciler.sources.client import Client
from reconciler.sources.deployments import Deployments
from reconciler.sources.edits import Issues, MergeRequests
from reconciler.sources.feature_flags import FeatureFlags
from reconciler.sources.hook_log import HookLog
from reconciler.sources.hooks import Hooks
from reconciler.sources.pipelines import Jobs, Pipelines
from reconciler.sources.project_events import ProjectEvents
from reconciler.sources.releases import Releases
from reconciler.sources.source import FOREVER, Source


@dataclass(frozen=True, slots=True)
class Entry:
    """One source. By default it is read if the webhook has one of its `triggers`, or always if it has none."""

    name: str
    make: Callable[[Client, Hooks], Source]
    asks: str
    keeps_for: Millis
    rebuilds: str
    loses: str
    triggers: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    """The project features that it needs, as in the project's `…_access_level`."""


SOURCES: tuple[Entry, ...] = (
    Entry(
        "hook_log",
        lambda _, hooks: HookLog(hooks),
        "`/projects/:id/hooks/:hook_id/events` (GitLab 17.3+, Maintainer)",
        HookLog.keeps_for,
        "every delivery that GitLab tried, with GitLab's own body",
        "what happened while the webhook was disabled, over the rate limit, or in a push of more than 3 refs; "
        "e-mail addresses; bodies that GitLab found too large to log",
    ),
    Entry(
        "project_events",
        lambda client, _: ProjectEvents(client),
        "`/projects/:id/events`",
        ProjectEvents.keeps_for,
        "pushes and tags; issues and merge requests opened, closed, reopened, merged, approved; comments; wiki "
        "pages; milestones; members who joined or left the project",
        "unapprovals; what the token's user may not see; members of groups",
    ),
    Entry(
        "pipelines",
        lambda client, _: Pipelines(client),
        "`/projects/:id/pipelines?updated_after=`",
        FOREVER,
        "the state of each pipeline when it is read; always the last one",
        "intermediate states; variables",
        ("pipeline_events",),
        ("builds", "repository"),
    ),
    Entry(
        "jobs",
        lambda client, _: Jobs(client),
        "the pipelines as above, and `/projects/:id/pipelines/:id/jobs` of each that changed",
        FOREVER,
        "the state each job is in when its pipeline changed, the last one above all",
        "intermediate states; a job that ends before its pipeline is found when the pipeline ends",
        ("job_events",),
        ("builds", "repository"),
    ),
    Entry(
        "deployments",
        lambda client, _: Deployments(client),
        "`/projects/:id/deployments?updated_after=`",
        FOREVER,
        "the state of each deployment when it is read",
        "intermediate states",
        ("deployment_events",),
        ("builds", "environments", "repository"),
    ),
    Entry(
        "releases",
        lambda client, _: Releases(client),
        "`/projects/:id/releases?order_by=created_at`",
        FOREVER,
        "new releases",
        "edits and deletions",
        ("releases_events",),
        ("releases", "repository"),
    ),
    Entry(
        "issues",
        lambda client, _: Issues(client),
        "`/projects/:id/issues?updated_after=`, and, for each that changed, its notes, emoji, and label, "
        "milestone and state events",
        FOREVER,
        "edits of issues (labels, milestone, and that title, description, assignees and the like were changed), "
        "edits of comments, emoji",
        "previous values, except of labels and milestone; removed emoji; emoji on an issue that does not "
        "change otherwise (an emoji does not move its `updated_at`)",
        ("issues_events", "confidential_issues_events", "note_events", "confidential_note_events", "emoji_events"),
        ("issues",),
    ),
    Entry(
        "merge_requests",
        lambda client, _: MergeRequests(client),
        "`/projects/:id/merge_requests?updated_after=`, and, for each that changed, the same as for issues, and "
        "its versions",
        FOREVER,
        "as for issues; pushes to the branch of a merge request",
        "as for issues; unapprovals",
        ("merge_requests_events", "note_events", "confidential_note_events", "emoji_events"),
        ("merge_requests", "repository"),
    ),
    Entry(
        "feature_flags",
        lambda client, _: FeatureFlags(client),
        "`/projects/:id/feature_flags`",
        FOREVER,
        "the last state of each flag",
        "earlier states; who changed it",
        ("feature_flag_events",),
        ("feature_flags", "repository"),
    ),
)
"""In the order of reading: the source with GitLab's own bodies first, so that fewer bodies are rebuilt."""

ALWAYS = tuple(entry.name for entry in SOURCES if not entry.triggers)


def make_sources(client: Client, hooks: Hooks) -> dict[str, Source]:
    """All sources by name, in the order of the table."""
    return {entry.name: entry.make(client, hooks) for entry in SOURCES}


def subscribed(triggers: Iterable[str]) -> list[str]:
    """The sources that report the events of a webhook with these triggers."""
    wanted = set(triggers)
    return [entry.name for entry in SOURCES if not entry.triggers or wanted.intersection(entry.triggers)]


def keeps() -> dict[str, Millis]:
    """How long GitLab keeps the data of each source."""
    return {entry.name: entry.keeps_for for entry in SOURCES}


def features_of(source: str) -> tuple[str, ...]:
    """The features of a project that a source needs."""
    return next((entry.features for entry in SOURCES if entry.name == source), ())


def switched_off(source: str, details: Mapping[str, Any]) -> list[str]:
    """The needed features that are switched off in a project with these `details`."""
    return [feature for feature in features_of(source) if details.get(f"{feature}_access_level") == "disabled"]
