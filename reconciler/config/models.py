"""Every key of `config.yaml`. The descriptions here become the JSON Schema that editors show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from reconciler.config import agreement
from reconciler.config.basics import (
    CaFile,
    FileToWrite,
    GitLabUrl,
    HeaderSecret,
    Host,
    Name,
    ReceiverUrl,
    Secret,
    Section,
    SigningKey,
    number_in_text,
)
from reconciler.config.destinations import DestinationEntry
from reconciler.config.guessing import SHORTEST_TOKEN, guessable
from reconciler.config.mistakes import Misplaced
from reconciler.config.units import Duration, Size


def _project(value: object) -> int | str:
    value = number_in_text(value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"[^/\s]+(/[^/\s]+)+", value):
        return value
    raise ValueError("should be a project's numeric id or its path like `group/project`")


ProjectName = Annotated[int | str, BeforeValidator(_project)]

SourceName = Literal[
    "hook_log",
    "project_events",
    "pipelines",
    "jobs",
    "deployments",
    "releases",
    "issues",
    "merge_requests",
    "feature_flags",
]
"""What GitLab can be asked; docs/recovery.md says what each tells."""

Trigger = Literal[
    "push_events",
    "tag_push_events",
    "issues_events",
    "confidential_issues_events",
    "merge_requests_events",
    "note_events",
    "confidential_note_events",
    "job_events",
    "pipeline_events",
    "wiki_page_events",
    "deployment_events",
    "releases_events",
    "milestone_events",
    "feature_flag_events",
    "emoji_events",
    "resource_access_token_events",
    "resource_deploy_token_events",
    "member_events",
    "subgroup_events",
    "project_events",
    "vulnerability_events",
]
"""What a GitLab webhook can be subscribed to, as the API names it."""

GitLabToken = Annotated[HeaderSecret, Field(min_length=1)]


class GitLab(Section):
    """Where GitLab is, and who we are there."""

    url: GitLabUrl = Field("https://gitlab.com", description="Base URL of the GitLab instance.")
    token: GitLabToken | None = Field(
        None, description="Access token with the `read_api` scope. Without it nothing is reconciled."
    )
    token_file: Path | None = Field(None, description="A file that holds the token, instead of `token`.")
    timeout: Duration = Field(
        "30s",
        validate_default=True,
        description="How long to wait for one answer of the API, from the request to its last byte.",
    )
    ca_file: CaFile | None = Field(None, description="CA certificates (PEM) for an instance with a private CA.")
    rate_share: float = Field(
        0.5, gt=0, le=1, description="Share of the token's rate limit that may be used; the rest is left to others."
    )


class Hook(Section):
    """One webhook that GitLab posts to `/webhooks/gitlab/<name>` (`default` also to `/webhooks/gitlab`)."""

    name: Name = Field("default", description="Last part of the path, and the source's name in the ledger.")
    token: Secret | None = Field(None, description="Secret token of the webhook (X-Gitlab-Token).")
    token_file: Path | None = Field(None, description="A file that holds the secret token.")
    signing_token: SigningKey | None = Field(
        None, description="Signing token of the webhook (`whsec_…`); a signed delivery must then pass."
    )
    signing_token_file: Path | None = Field(None, description="A file that holds the signing token.")
    triggers: list[Trigger] | None = Field(
        None, description="What `hooks ensure` subscribes the webhook to; default: everything a project has."
    )

    @model_validator(mode="after")
    def _guarded(self) -> Hook:
        if self.token is None and self.signing_token is None:
            raise ValueError("needs a `token` or a `signing_token`: anyone could post events otherwise")
        return self


class Receiver(Section):
    """The front door for GitLab's webhooks."""

    url: ReceiverUrl | None = Field(
        None,
        description="Base URL under which GitLab reaches this receiver, like https://events.example.com. "
        "`hooks ensure` needs it; without it, our webhooks in GitLab are known by their path alone.",
    )

    host: Host = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_body: Size = Field("25MiB", validate_default=True, description="Larger bodies are answered with 413.")
    max_pending_bytes: Size = Field(
        "256MiB",
        validate_default=True,
        description="How much may be in memory, on its way to the ledger, before 503.",
    )
    keep_alive: Duration = Field(
        "75s",
        validate_default=True,
        description="How long an idle connection stays open: longer than a proxy in front keeps its own, often 60s.",
    )
    hooks: list[Hook] = Field(min_length=1, description="The webhooks that may deliver here.")


class Ledger(Section):
    """The one file that everything is in."""

    path: FileToWrite = Field(
        Path("ledger.db"), validate_default=True, description="SQLite file; relative to the config file."
    )


class Reconcile(Section):
    """How GitLab's API is asked for what the webhooks did not bring."""

    interval: Duration = Field("60s", validate_default=True, description="Time between two polls of a project.")
    grace_period: Duration = Field(
        "30s",
        validate_default=True,
        description="How old a record must be to be read: gives its webhook time to come first.",
    )
    overlap: Duration = Field(
        "5m",
        validate_default=True,
        description="How far before the last covered time a poll looks again, for records that appear late.",
    )
    concurrency: int = Field(4, ge=1, le=64, description="How many projects are read at the same time.")
    full_poll_interval: Duration = Field(
        "15m",
        validate_default=True,
        description="With more than 20 projects: how often the quiet ones are read too. Those that GitLab says are "
        "active are read in every interval. Also how often groups are asked for their projects.",
    )
    sources: list[SourceName] | None = Field(
        None, description="What is asked of GitLab; default: what the project's webhook is subscribed to."
    )
    reenable_hooks: bool = Field(
        True, description="Whether a webhook that GitLab switched off is switched on again, by a test delivery."
    )


class Metrics(Section):
    """What Prometheus reads."""

    host: Host = Field("127.0.0.1", description="Address to listen on for Prometheus.")
    port: int | None = Field(None, ge=1, le=65535, description="Port of `/metrics`; without it there is none.")


class Admin(Section):
    """The dashboard."""

    host: Host = Field("127.0.0.1", description="Address to listen on; others than loopback need a `token`.")
    port: int | None = Field(None, ge=0, le=65535, description="Port of the dashboard; without it there is none.")
    token: Secret | None = Field(None, description="What a person has to show to see the dashboard.")
    token_file: Path | None = Field(None, description="A file that holds the token.")

    @model_validator(mode="after")
    def _not_for_everybody(self) -> Admin:
        if self.token is not None and guessable(self.token):
            what = (
                f"should have {SHORTEST_TOKEN} characters or more, and not always the same, so that nobody can guess "
                "it: `openssl rand -hex 20` makes one"
            )
            raise Misplaced((("token",), what, None))
        if self.port is not None and self.token is None and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("needs a `token`: who reaches this address could see every event otherwise")
        return self


class Retention(Section):
    """How long each kind of row is kept. What is undelivered is never dropped."""

    events: Duration | None = Field(
        "365d",
        validate_default=True,
        description="Events that every destination is done with, with all that belongs to them, and records that "
        "could not be understood, since they were last seen; `null`: for ever.",
    )
    dead_letters: Duration | None = Field(
        None, description="Dead letters, which keep their events; default: for ever, or until they are replayed."
    )
    attempts: Duration | None = Field(
        "30d", validate_default=True, description="What was tried when, and what came back; `null`: for ever."
    )
    runs: Duration | None = Field(
        "90d", validate_default=True, description="Notes of what was read from GitLab when; `null`: for ever."
    )


class Project(Section):
    """A project to reconcile, with settings of its own."""

    project: ProjectName = Field(description="Its numeric id, or its path like `group/project`.")
    sources: list[SourceName] | None = Field(
        None, description="What is asked of GitLab for this project, instead of `reconcile.sources`."
    )


def _group(value: object) -> int | str:
    value = number_in_text(value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"[^/\s]+(/[^/\s]+)*", value):
        return value
    raise ValueError("should be a group's numeric id or its path like `group/subgroup`")


Group = Annotated[int | str, BeforeValidator(_group)]


def _entry(value: object) -> object:
    """A project may be given by its name alone."""
    return value if isinstance(value, dict | Project) else {"project": value}


ProjectEntry = Annotated[Project, BeforeValidator(_entry, json_schema_input_type=ProjectName | Project)]


class Config(Section):
    """The whole of `config.yaml`."""

    gitlab: GitLab = Field(default_factory=GitLab, description="The GitLab instance.")
    projects: list[ProjectEntry] = Field(
        default_factory=list, description="Projects to reconcile: numeric ids or paths like `group/project`."
    )
    groups: list[Group] = Field(
        default_factory=list, description="Groups whose projects, in subgroups too, are all reconciled."
    )
    receiver: Receiver = Field(description="The front door.")
    ledger: Ledger = Field(default_factory=Ledger, description="The store.")
    reconcile: Reconcile = Field(default_factory=Reconcile, description="Asking GitLab's API.")
    metrics: Metrics = Field(default_factory=Metrics, description="For Prometheus.")
    admin: Admin = Field(default_factory=Admin, description="The dashboard.")
    retention: Retention = Field(default_factory=Retention, description="How long rows are kept.")
    destinations: list[DestinationEntry] = Field(default_factory=list, description="Who gets the events.")

    @model_validator(mode="before")
    @classmethod
    def _sections_with_paths(cls, values: Any) -> Any:
        """A default path is relative to the config's folder too: only what is given is validated with it."""
        return values | {"ledger": values.get("ledger") or {}} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        found = [
            *agreement.twice(("receiver", "hooks"), [hook.name for hook in self.receiver.hooks], ("name",)),
            *agreement.twice(("destinations",), [one.name for one in self.destinations], ("name",)),
            *agreement.twice(("projects",), [entry.project for entry in self.projects]),
            *agreement.twice(("groups",), self.groups),
            *agreement.ports(
                receiver=(self.receiver.host, self.receiver.port),
                admin=(self.admin.host, self.admin.port),
                metrics=(self.metrics.host, self.metrics.port),
            ),
            *agreement.files(self.ledger.path, [getattr(one, "path", None) for one in self.destinations]),
        ]
        if found:
            raise Misplaced(*found)
        return self
