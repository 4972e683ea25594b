"""The keys that destinations of every kind have. Each kind adds its own (`forwarding/kinds/`)."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jinja2
import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from reconciler.config import filter_values
from reconciler.config.basics import Name, Section, check_header_value
from reconciler.config.destination_kinds import UnknownKind, find_kind, kind_error
from reconciler.config.mistakes import Misplaced
from reconciler.config.templates import compiled_template
from reconciler.config.units import Duration, DurationOrNone, Rate


def _expression(text: str) -> str:
    try:
        compiled = jmespath.compile(text)
        _check_functions(compiled.parsed)
    except JMESPathError as error:
        raise ValueError(f"not valid JMESPath: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ValueError("not valid JMESPath: it is nested too deeply") from None
    return text


def _check_functions(node: Any) -> None:
    """Refuse unknown functions and wrong numbers of arguments: JMESPath notices them only when it runs."""
    if node["type"] == "function_expression":
        known = Functions.FUNCTION_TABLE.get(node["value"])
        if known is None:
            raise ValueError(f"not valid JMESPath: there is no function {node['value']}(){_near(node['value'])}")
        wanted, given = known["signature"], len(node["children"])
        variadic = bool(wanted) and wanted[-1].get("variadic", False)
        if given < len(wanted) or (given > len(wanted) and not variadic):
            least = "at least " if variadic else ""
            raise ValueError(
                f"not valid JMESPath: {node['value']}() takes {least}{len(wanted)} arguments, not {given}"
            )
    for child in node["children"]:
        if isinstance(child, dict):
            _check_functions(child)


def _near(name: str) -> str:
    near = get_close_matches(name, Functions.FUNCTION_TABLE, n=1)
    return f"; did you mean {near[0]}()?" if near else ""


def _template(text: str) -> str:
    try:
        compiled_template(text)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"not a valid Jinja2 template: line {error.lineno}: {error.message}") from None
    except Exception as error:  # valid for Jinja2, but not for Python, which it compiles to
        raise ValueError(f"not a valid Jinja2 template: {type(error).__name__}: {error}") from None
    return text


def _header_value(text: str) -> str:
    check_header_value(text)
    return text


def _start(value: Any) -> Any:
    """YAML reads `2026-10-01` as a date."""
    if value in ("now", "beginning"):
        return value
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    except ValueError:
        pass
    raise ValueError("should be `now`, `beginning`, or a time like 2026-10-01T08:00:00Z")


def _project_pattern(value: Any) -> Any:
    """A string of digits is an ID: no path consists of digits alone."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and _PATTERN.search(value) and not _NOT_IN_A_PATH.search(value):
        return value
    raise ValueError("should be a project's id, its path like `group/project`, or a pattern like `my-group/*`")


_PATTERN = re.compile(r"[*?\[]|[^/]/[^/]")
_NOT_IN_A_PATH = re.compile(r"\s|^/|/$|//")

ProjectPattern = Annotated[int | str, BeforeValidator(_project_pattern)]
JMESPath = Annotated[str, AfterValidator(_expression)]
Template = Annotated[str, AfterValidator(_template)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]


class RetryConfig(Section):
    """What to do when a delivery fails."""

    max_age: Duration = Field(
        "3d",
        validate_default=True,
        description="An event that is not delivered this long after its first attempt becomes a dead letter.",
    )
    initial_delay: Duration = Field("1s", validate_default=True, description="Upper bound of the first delay.")
    max_delay: Duration = Field("5m", validate_default=True, description="Upper bound of every delay.")
    schedule: list[Duration] | None = Field(
        None,
        min_length=1,
        description="Exact delays, like [5s, 5m, 30m, 2h, 5h, 10h], instead of `initial_delay`, `max_delay` and "
        "`max_age`. If the attempt after the last one fails, the event becomes a dead letter.",
    )
    dead_letter_on_4xx: bool = Field(
        True,
        description="Whether an event becomes a dead letter at once on a 4xx response other than 408, 410, 425 "
        "and 429.",
    )


class BreakerConfig(Section):
    """The circuit breaker. While it is open, one event at a time is sent as a probe, with growing delays."""

    failures: int = Field(5, ge=1, le=1000, description="How many failures in a row open the circuit breaker.")
    max_delay: Duration = Field("15s", validate_default=True, description="Upper bound of the delay between probes.")
    recovery_hold: Duration = Field(
        "1m",
        validate_default=True,
        description="How long the circuit breaker must stay closed before an alert reports the recovery.",
    )


class FilterConfig(Section):
    """Which events a destination gets. An event must match every key that is given."""

    projects: list[ProjectPattern] | None = Field(
        None,
        min_length=1,
        description="IDs, paths, or patterns like `my-group/*` (subgroups included). Case is ignored. A project that "
        "was renamed or moved still matches its old path; the log and `check` report it. Events that belong to no "
        "project (of groups, members, users) never match.",
    )
    kinds: list[Annotated[str, AfterValidator(filter_values.kind)]] | None = Field(
        None,
        min_length=1,
        description="Event kinds, like push, merge_request, issue, note, member; or an `event_name`, like "
        "user_add_to_group.",
    )
    actions: list[Annotated[str, AfterValidator(filter_values.action)]] | None = Field(
        None, min_length=1, description="Actions, like open, merge, close, success, user_add_to_group."
    )
    branches: list[str] | None = Field(
        None,
        min_length=1,
        description="Branch names, or patterns like `release/*`. A merge request matches by its source or target "
        "branch. Events without a branch never match.",
    )
    expression: JMESPath | None = Field(
        None,
        description="A JMESPath expression over `body` (GitLab's) and `event` (kind, action, project, …). An event "
        "matches if the result is true.",
    )

    @model_validator(mode="after")
    def _can_let_something_through(self) -> FilterConfig:
        if self.kinds is not None:
            filter_values.fit(self.kinds, self.actions, branches=self.branches is not None)
        return self


class Transform(Section):
    """What is sent instead of GitLab's body: exactly one of `fields`, `jmespath` and `template`."""

    fields: list[str] | None = Field(
        None, min_length=1, description="Send only these fields of the body, like project.path_with_namespace."
    )
    jmespath: JMESPath | None = Field(
        None, description="Send the result of a JMESPath expression over `body` and `event`."
    )
    template: Template | None = Field(
        None, description="Send the output of a Jinja2 template over `body` and `event`. It runs in a sandbox."
    )
    content_type: HeaderValue = Field("application/json", description="Content type of the template's output.")

    @model_validator(mode="after")
    def _one(self) -> Transform:
        if sum(one is not None for one in (self.fields, self.jmespath, self.template)) != 1:
            raise ValueError("needs exactly one of `fields`, `jmespath` and `template`")
        return self


class Batch(Section):
    """Several events in one request, write or produce."""

    max: int = Field(100, ge=2, le=1000, description="How many events a batch has at most.")
    wait: DurationOrNone = Field(
        "0s", validate_default=True, description="How long a batch that is not full waits for more events."
    )


class WrittenFile(NamedTuple):
    """A file that a destination writes, and the key that names it. `is_shared`: another destination may write it too,
    if that says the same.
    """

    key: str
    path: Path
    is_shared: bool = False


class Destination(Section):
    """A service that events are delivered to."""

    name: Name = Field(description="Unique name, used in the ledger and in commands.")
    kind: str = Field("http", description="Kind of destination. docs/destinations/ has a page for each.")
    type: Literal["events", "alerts"] = Field(
        "events", description="`events`: events from GitLab. `alerts`: only the reconciler's own alerts."
    )
    format: Literal["webhook", "cloudevents"] = Field(
        "webhook",
        description="`webhook`: GitLab's own body and headers. `cloudevents`: structured CloudEvents 1.0.",
    )
    filter: FilterConfig = Field(
        default_factory=FilterConfig, description="Which events are delivered. Default: all."
    )
    transform: Transform | None = Field(None, description="What to send instead of GitLab's body.")
    ordering: Literal["project", "object", "none"] = Field(
        "project",
        description="`project`: the events of one project are delivered in order. `object`: the events of one issue, "
        "merge request, branch, … are delivered in order. `none`: no order.",
    )
    start_from: Annotated[Literal["now", "beginning"] | datetime, BeforeValidator(_start)] = Field(
        "now", description="Where a new destination starts: `now`, `beginning`, or a time."
    )
    timeout: Duration = Field("10s", validate_default=True, description="Timeout of one attempt.")
    concurrency: int = Field(
        8, ge=1, le=256, description="How many events, or batches, may be in flight at the same time."
    )
    rate_limit: Rate | None = Field(None, description="Maximum rate, like 10/s or 600/m. Default: no limit.")
    retry: RetryConfig = Field(default_factory=RetryConfig, description="What to do when a delivery fails.")
    breaker: BreakerConfig = Field(default_factory=BreakerConfig, description="When the destination counts as down.")

    @property
    def batching(self) -> Batch | None:
        """How events are batched; None if they are delivered one at a time."""
        return None

    @property
    def chat(self) -> str | None:
        """The chat whose messages are sent instead of GitLab's bodies; None if it is no chat."""
        return None

    @property
    def written_file(self) -> WrittenFile | None:
        """The file that it writes: no other may, and no command may replace it. None if it writes none."""
        path = getattr(self, "path", None)
        return WrittenFile("path", path) if isinstance(path, Path) else None

    @property
    def is_pulled(self) -> bool:
        """Whether consumers fetch its events: then nothing is sent."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _takes_no_batches(cls, values: Any) -> Any:
        if isinstance(values, dict) and "batch" in values and "batch" not in cls.model_fields:
            kind = values.get("kind", "http")
            raise Misplaced((("batch",), f"kind {kind} does not take batches: remove this key", None))
        return values

    @model_validator(mode="after")
    def _what_it_gets(self) -> Destination:
        wanted = self.filter
        try:
            if self.type == "events":
                filter_values.of_events(wanted.kinds or (), wanted.actions or ())
            else:
                filter_values.of_alerts(wanted.kinds or (), wanted.actions or ())
                if wanted.projects is not None or wanted.branches is not None:
                    raise ValueError("an alert has neither a project nor a branch")
        except ValueError as error:
            raise Misplaced((("filter",), str(error), None)) from None
        return self

    @model_validator(mode="after")
    def _json_in_an_envelope(self) -> Destination:
        made = self.transform
        if self.format == "cloudevents" and made is not None and made.content_type != "application/json":
            what = "should be application/json: with `format: cloudevents` a template has to make JSON"
            raise Misplaced((("transform", "content_type"), what, None))
        return self


class BatchedDestination(Destination):
    """A destination that takes batches. Kinds whose `config` extends it have `batch`."""

    batch: Batch | None = Field(
        None, description="Deliver several events at once, like `{max: 100, wait: 200ms}`. Default: one at a time."
    )

    @property
    def batching(self) -> Batch | None:
        return self.batch


def _of_its_kind(value: Any, info: ValidationInfo) -> Any:
    """Validate an entry with the config of its kind."""
    if not isinstance(value, dict):
        return value
    name = str(value.get("kind", "http"))
    try:
        kind = find_kind(name)
    except UnknownKind as error:
        raise Misplaced((("kind",), str(error), None)) from None
    try:
        kind.available()
        return kind.config.model_validate(value, context=info.context)
    except ValueError:  # mistakes in the entry, including pydantic's
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(kind_error(name, "its config can't be checked", error)) from error


DestinationEntry = Annotated[Destination, BeforeValidator(_of_its_kind)]
