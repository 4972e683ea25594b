"""Every key of `config.yaml`. The descriptions here become the JSON Schema that editors show."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from reconciler.config.units import Duration, Size


class Section(BaseModel):
    """Unknown keys are refused: a misspelt key would silently leave a default in place."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _http_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not rest.split("/")[0]:
        raise ValueError("should be a URL like https://host/path")
    return url


def _signing_key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().removeprefix("whsec_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("should be a Standard Webhooks secret: `whsec_` and base64")
    return secret


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Url = Annotated[str, AfterValidator(_http_url)]
SigningKey = Annotated[SecretStr, AfterValidator(_signing_key)]
Secret = Annotated[SecretStr, Field(min_length=1)]


def _project(value: object) -> int | str:
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
    "member_events",
    "subgroup_events",
    "project_events",
    "vulnerability_events",
]
"""What a GitLab webhook can be subscribed to, as the API names it."""


class GitLab(Section):
    """Where GitLab is, and who we are there."""

    url: Url = Field("https://gitlab.com", description="Base URL of the GitLab instance.")
    token: Secret | None = Field(
        None, description="Access token with the `read_api` scope. Without it nothing is reconciled."
    )
    token_file: Path | None = Field(None, description="A file that holds the token, instead of `token`.")
    timeout: Duration = Field(30_000, description="How long to wait for one answer of the API.")
    ca_file: Path | None = Field(None, description="CA certificates (PEM) for an instance with a private CA.")
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

    url: Url | None = Field(
        None,
        description="Base URL under which GitLab reaches this receiver, like https://events.example.com. "
        "`hooks ensure` needs it; without it, our webhooks in GitLab are known by their path alone.",
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_body: Size = Field("25MiB", validate_default=True, description="Larger bodies are answered with 413.")
    max_waiting: Size = Field(
        "256MiB",
        validate_default=True,
        description="How much may be in memory, on its way to the ledger, before 503.",
    )
    hooks: list[Hook] = Field(min_length=1, description="The webhooks that may deliver here.")


class Ledger(Section):
    """The one file that everything is in."""

    path: Path = Field(Path("ledger.db"), description="SQLite file; relative to the config file.")


class Reconcile(Section):
    """How GitLab's API is asked for what the webhooks did not bring."""

    interval: Duration = Field("60s", validate_default=True, description="Time between two polls of a project.")
    settle: Duration = Field(
        "30s",
        validate_default=True,
        description="How old a record must be to be read: gives its webhook time to come first.",
    )
    overlap: Duration = Field(
        "5m",
        validate_default=True,
        description="How far before the last covered time a poll looks again, for records that appear late.",
    )
    parallel: int = Field(4, ge=1, le=64, description="How many projects are read at the same time.")
    round: Duration = Field(
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

    host: str = Field("127.0.0.1", description="Address to listen on for Prometheus.")
    port: int | None = Field(None, ge=1, le=65535, description="Port of `/metrics`; without it there is none.")


class Retry(Section):
    """When a destination does not take an event."""

    max_age: Duration = Field(
        "3d",
        validate_default=True,
        description="How long after its first attempt an event becomes a dead letter.",
    )
    first: Duration = Field("1s", validate_default=True, description="Upper bound of the first pause.")
    longest: Duration = Field("5m", validate_default=True, description="Upper bound of any pause.")
    dead_on_4xx: bool = Field(
        True, description="Whether other 4xx answers than 408, 425 and 429 make a dead letter at once."
    )


class Destination(Section):
    """An external service that is to get every event."""

    name: Name = Field(description="Its name in the ledger and in every command.")
    url: Url = Field(description="Where events are posted to.")
    format: Literal["webhook", "cloudevents"] = Field(
        "webhook",
        description="`webhook`: GitLab's own body and headers. `cloudevents`: structured CloudEvents 1.0.",
    )
    ordering: Literal["project", "none"] = Field(
        "project",
        description="`project`: the events of one project one after the other. `none`: faster, in any order.",
    )
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="Headers to send with each event.")
    secret: SigningKey | None = Field(None, description="Standard Webhooks secret to sign with (`whsec_…`).")
    secret_file: Path | None = Field(None, description="A file that holds the secret.")
    timeout: Duration = Field("10s", validate_default=True, description="How long to wait for an answer.")
    concurrency: int = Field(8, ge=1, le=256, description="How many events may be on their way at once.")
    retry: Retry = Field(default_factory=Retry, description="What to do when it does not take an event.")


class Project(Section):
    """A project to reconcile, with settings of its own."""

    project: ProjectName = Field(description="Its numeric id, or its path like `group/project`.")
    sources: list[SourceName] | None = Field(
        None, description="What is asked of GitLab for this project, instead of `reconcile.sources`."
    )


def _group(value: object) -> int | str:
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
    destinations: list[Destination] = Field(default_factory=list, description="Who gets the events.")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        for what, names in (
            ("receiver.hooks", [hook.name for hook in self.receiver.hooks]),
            ("destinations", [destination.name for destination in self.destinations]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what}: two have the name {', '.join(twice)}")
        projects = [entry.project for entry in self.projects]
        twice_read = sorted({str(p) for p in projects if projects.count(p) > 1})
        if twice_read:
            raise ValueError(f"projects: {', '.join(twice_read)} stands there twice")
        return self
