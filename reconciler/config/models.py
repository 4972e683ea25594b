"""Every key of `config.yaml`. The descriptions become the JSON Schema that editors show, and the tables in docs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from reconciler.config import uniqueness
from reconciler.config.basics import (
    CaFile,
    FileToWrite,
    GitLabUrl,
    HeaderSecret,
    Host,
    Name,
    PostgresUri,
    ReceiverUrl,
    Secret,
    Section,
    SigningKey,
)
from reconciler.config.destinations import DestinationEntry
from reconciler.config.gitlab_names import GroupName, ProjectName
from reconciler.config.mistakes import Misplaced
from reconciler.config.units import Duration, Size
from reconciler.config.weak_secrets import SHORTEST_TOKEN, guessable
from reconciler.location import Location, PostgresUrl

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
"""Sources that can be polled; docs/recovery.md describes what each reports."""

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
"""What a GitLab webhook can be subscribed to, by its name in the API."""

GitLabToken = Annotated[HeaderSecret, Field(min_length=1)]


class GitLab(Section):
    """The GitLab instance and how to authenticate with it."""

    url: GitLabUrl = Field("https://gitlab.com", description="Base URL of the GitLab instance.")
    token: GitLabToken | None = Field(
        None,
        description="Access token with the `read_api` scope. Without one, webhooks are still recorded and delivered, "
        "but GitLab is not polled for missed events.",
    )
    token_file: Path | None = Field(None, description="File that contains the token. Use it instead of `token`.")
    timeout: Duration = Field(
        "30s",
        validate_default=True,
        description="Timeout of one API request, until the last byte of the response.",
    )
    ca_file: CaFile | None = Field(None, description="CA certificates (PEM), if the instance uses a private CA.")
    rate_share: float = Field(
        0.5, gt=0, le=1, description="Share of the token's rate limit to use. The rest is left for other clients."
    )


class HookConfig(Section):
    """A webhook that GitLab sends to `/webhooks/gitlab/<name>`. `default` also accepts `/webhooks/gitlab`."""

    name: Name = Field("default", description="Last part of the webhook's URL path, and its name in the ledger.")
    token: Secret | None = Field(None, description="Secret token of the webhook (`X-Gitlab-Token`).")
    token_file: Path | None = Field(None, description="File that contains the secret token.")
    signing_token: SigningKey | None = Field(
        None,
        description="Signing token of the webhook (`whsec_…`). If set, the signature of a signed request must be "
        "valid.",
    )
    signing_token_file: Path | None = Field(None, description="File that contains the signing token.")
    triggers: list[Trigger] | None = Field(
        None, description="Triggers that `hooks ensure` enables. Default: all that a project webhook can have."
    )

    @model_validator(mode="after")
    def _guarded(self) -> HookConfig:
        if self.token is None and self.signing_token is None:
            raise ValueError("needs a `token` or a `signing_token`: anyone could post events otherwise")
        return self


class Receiver(Section):
    """The HTTP server that accepts GitLab's webhooks."""

    url: ReceiverUrl | None = Field(
        None,
        description="Base URL at which GitLab reaches this receiver, like https://events.example.com. Required by "
        "`hooks ensure`. Without it, webhooks in GitLab are identified as ours by their path alone.",
    )
    host: Host = Field("127.0.0.1", description="Address to listen on. Use 0.0.0.0 to listen on all addresses.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on. 0 picks a free port.")
    max_body: Size = Field(
        "25MiB",
        validate_default=True,
        description="Largest body that is accepted. Larger ones are answered with 413.",
    )
    max_pending_bytes: Size = Field(
        "256MiB",
        validate_default=True,
        description="How much may wait in memory to be written to disk. Beyond it, requests are answered with 503.",
    )
    keep_alive: Duration = Field(
        "75s",
        validate_default=True,
        description="How long an idle connection stays open. It should be longer than a proxy in front keeps its "
        "idle connections open, often 60s.",
    )
    shutdown_delay: Duration | None = Field(
        None,
        description="How long a receiver that is stopped still accepts webhooks, while `/readyz` answers 503. With "
        "several copies, it should be longer than the load balancer needs to see that. Without it, the receiver "
        "stops at once.",
    )
    hooks: list[HookConfig] = Field(min_length=1, description="The webhooks that are accepted.")


class LedgerConfig(Section):
    """The SQLite file, or the PostgreSQL database, that holds all data."""

    path: FileToWrite = Field(
        Path("ledger.db"), validate_default=True, description="Path of the SQLite file, relative to the config file."
    )
    url: PostgresUri | None = Field(
        None,
        description="URI of a PostgreSQL database, like postgresql://user:password@host/database. Use it instead of "
        "`path` to run the service on several machines.",
    )
    url_file: Path | None = Field(None, description="File that contains the URI.")

    @model_validator(mode="after")
    def _one_of_them(self) -> LedgerConfig:
        if self.url is not None and "path" in self.model_fields_set:
            raise Misplaced((("path",), "can't be used with `url`: the ledger is one of them", ("url",)))
        return self

    @property
    def location(self) -> Location:
        """Where the ledger is."""
        return self.path if self.url is None else PostgresUrl(self.url.get_secret_value())


class Reconcile(Section):
    """How GitLab's API is polled for events that the webhooks missed."""

    interval: Duration = Field("60s", validate_default=True, description="Time between two polls of a project.")
    grace_period: Duration = Field(
        "30s",
        validate_default=True,
        description="How old a record must be before it is read, so that its webhook can arrive first.",
    )
    overlap: Duration = Field(
        "5m",
        validate_default=True,
        description="How far before the last covered time each poll reads again, to find records that appear late.",
    )
    concurrency: int = Field(4, ge=1, le=64, description="How many projects are polled at the same time.")
    full_poll_interval: Duration = Field(
        "15m",
        validate_default=True,
        description="With more than 20 projects: how often quiet projects are polled. Those that GitLab reports as "
        "active are polled in every interval. Also how often the projects of `groups` are listed.",
    )
    sources: list[SourceName] | None = Field(
        None,
        description="Sources to poll. Default: those for the events that the project's webhook is subscribed to.",
    )
    reenable_hooks: bool = Field(
        True, description="Whether to re-enable a webhook that GitLab has disabled, by requesting a test delivery."
    )


class Metrics(Section):
    """The metrics endpoint for Prometheus."""

    host: Host = Field("127.0.0.1", description="Address to listen on.")
    port: int | None = Field(
        None, ge=1, le=65535, description="Port of `/metrics`. Without it, metrics are not served."
    )


class Admin(Section):
    """The dashboard and the HTTP API."""

    host: Host = Field(
        "127.0.0.1", description="Address to listen on. Any other than a loopback address requires a `token`."
    )
    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the dashboard and the API. Without it, there are none. 0 picks a free port.",
    )
    token: Secret | None = Field(
        None, description="Token that visitors enter to see the dashboard, and clients of the API send."
    )
    token_file: Path | None = Field(None, description="File that contains the token.")
    read_token: Secret | None = Field(
        None,
        description="Another token, for scripts that may only read. Nobody can log in with it.",
    )
    read_token_file: Path | None = Field(None, description="File that contains the token that may only read.")

    @model_validator(mode="after")
    def _not_for_everybody(self) -> Admin:
        for name, token in (("token", self.token), ("read_token", self.read_token)):
            if token is not None and guessable(token):
                what = (
                    f"should have {SHORTEST_TOKEN} characters or more, and not always the same, so that nobody can "
                    "guess it: `openssl rand -hex 20` makes one"
                )
                raise Misplaced(((name,), what, None))
        if self.read_token is not None and self.token is None:
            raise Misplaced((("read_token",), "needs a `token` too: without one, everything is allowed", None))
        if self.read_token is not None and self.read_token == self.token:
            raise Misplaced((("read_token",), "should differ from `token`, which may do more", ("token",)))
        if self.port is not None and self.token is None and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("needs a `token`: who reaches this address could see every event otherwise")
        return self


class Retention(Section):
    """How long data is kept. Events with a pending delivery are never deleted."""

    events: Duration | None = Field(
        "365d",
        validate_default=True,
        description="Events without a pending delivery or a dead letter, with all that belongs to them; and records "
        "that could not be understood, since they were last seen. `null`: forever.",
    )
    dead_letters: Duration | None = Field(
        None, description="Dead letters and their events. Default: forever, or until they are replayed."
    )
    attempts: Duration | None = Field(
        "30d", validate_default=True, description="Delivery attempts and their responses. `null`: forever."
    )
    runs: Duration | None = Field(
        "90d",
        validate_default=True,
        description="The history of polls: what was read from GitLab, and when. `null`: forever.",
    )


class ProjectConfig(Section):
    """A project to reconcile, with its own settings."""

    project: ProjectName = Field(description="Its numeric ID, or its path like `group/project`.")
    sources: list[SourceName] | None = Field(
        None, description="Sources to poll for this project, instead of `reconcile.sources`."
    )


def _entry(value: object) -> object:
    """A project may be given by its ID or path alone."""
    return value if isinstance(value, dict | ProjectConfig) else {"project": value}


ProjectEntry = Annotated[ProjectConfig, BeforeValidator(_entry, json_schema_input_type=ProjectName | ProjectConfig)]


class Config(Section):
    """All of `config.yaml`."""

    gitlab: GitLab = Field(default_factory=GitLab, description="The GitLab instance.")
    projects: list[ProjectEntry] = Field(
        default_factory=list, description="Projects to reconcile: numeric IDs or paths like `group/project`."
    )
    groups: list[GroupName] = Field(
        default_factory=list, description="Groups of which all projects are reconciled, subgroups included."
    )
    receiver: Receiver = Field(description="The HTTP server that accepts webhooks.")
    ledger: LedgerConfig = Field(default_factory=LedgerConfig, description="The SQLite file that holds all data.")
    reconcile: Reconcile = Field(default_factory=Reconcile, description="Polling GitLab's API.")
    metrics: Metrics = Field(default_factory=Metrics, description="The metrics endpoint for Prometheus.")
    admin: Admin = Field(default_factory=Admin, description="The dashboard and the HTTP API.")
    retention: Retention = Field(default_factory=Retention, description="How long data is kept.")
    destinations: list[DestinationEntry] = Field(
        default_factory=list, description="The services that events are delivered to."
    )

    @model_validator(mode="before")
    @classmethod
    def _sections_with_paths(cls, values: Any) -> Any:
        """A default path is relative to the config's folder too: only what is given is validated with it."""
        return values | {"ledger": values.get("ledger") or {}} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        found = [
            *uniqueness.twice(("receiver", "hooks"), [hook.name for hook in self.receiver.hooks], ("name",)),
            *uniqueness.twice(("destinations",), [one.name for one in self.destinations], ("name",)),
            *uniqueness.twice(("projects",), [entry.project for entry in self.projects]),
            *uniqueness.twice(("groups",), self.groups),
            *uniqueness.ports(
                receiver=(self.receiver.host, self.receiver.port),
                admin=(self.admin.host, self.admin.port),
                metrics=(self.metrics.host, self.metrics.port),
            ),
            *uniqueness.files(self.ledger.location, [one.written_file for one in self.destinations]),
            *(
                (("destinations", place, "kind"), "needs `admin.port`, where consumers fetch the events", ("admin",))
                for place, one in enumerate(self.destinations)
                if one.is_pulled and self.admin.port is None
            ),
        ]
        if found:
            raise Misplaced(*found)
        return self
