"""What every destination can be given, whatever its kind. Each kind adds its own keys (`forwarding/kinds/`)."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import jinja2
import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from reconciler.config import words
from reconciler.config.basics import Name, Section, check_header_value
from reconciler.config.kinds import UnknownKind, find_kind, told
from reconciler.config.mistakes import Misplaced
from reconciler.config.templates import compiled_template
from reconciler.config.units import Duration, Rate


def _expression(text: str) -> str:
    try:
        compiled = jmespath.compile(text)
        _check_functions(compiled.parsed)
    except JMESPathError as error:
        raise ValueError(f"no valid JMESPath: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ValueError("no valid JMESPath: it is nested too deep") from None
    return text


def _check_functions(node: Any) -> None:
    """Refuse functions that JMESPath does not have, and wrong numbers of arguments: it notices only when it runs."""
    if node["type"] == "function_expression":
        known = Functions.FUNCTION_TABLE.get(node["value"])
        if known is None:
            raise ValueError(f"no valid JMESPath: there is no function {node['value']}(){_near(node['value'])}")
        wanted, given = known["signature"], len(node["children"])
        variadic = bool(wanted) and wanted[-1].get("variadic", False)
        if given < len(wanted) or (given > len(wanted) and not variadic):
            least = "at least " if variadic else ""
            raise ValueError(
                f"no valid JMESPath: {node['value']}() takes {least}{len(wanted)} arguments, not {given}"
            )
    for child in node["children"]:
        if isinstance(child, dict):
            _check_functions(child)


def _near(name: str) -> str:
    near = get_close_matches(name, Functions.FUNCTION_TABLE, n=1)
    return f"; {near[0]}() is meant?" if near else ""


def _template(text: str) -> str:
    try:
        compiled_template(text)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"no valid Jinja2 template: line {error.lineno}: {error.message}") from None
    except Exception as error:  # what is valid to Jinja2, and not to Python, which it compiles to
        raise ValueError(f"no valid Jinja2 template: {type(error).__name__}: {error}") from None
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
    """A string of digits is an id too: no path is one."""
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


class Retry(Section):
    """When a destination does not take an event."""

    max_age: Duration = Field(
        "3d",
        validate_default=True,
        description="How long after its first attempt an event becomes a dead letter.",
    )
    initial_delay: Duration = Field("1s", validate_default=True, description="Upper bound of the first pause.")
    max_delay: Duration = Field("5m", validate_default=True, description="Upper bound of any pause.")
    schedule: list[Duration] | None = Field(
        None,
        min_length=1,
        description="The pauses themselves, like [5s, 5m, 30m, 2h, 5h, 10h], instead of `initial_delay`, `max_delay` and "
        "`max_age`; after the last an event becomes a dead letter.",
    )
    dead_on_4xx: bool = Field(
        True, description="Whether other 4xx answers than 408, 410, 425 and 429 make a dead letter at once."
    )


class BreakerSettings(Section):
    """When a destination counts as down: then one probe at a time goes out, with growing pauses."""

    failures: int = Field(5, ge=1, le=1000, description="So many failures in a row open the circuit breaker.")
    max_delay: Duration = Field("15s", validate_default=True, description="Upper bound of the pause between probes.")
    recovery_hold: Duration = Field(
        "1m", validate_default=True, description="How long it must have been well before an alert says that it is."
    )


class Filter(Section):
    """Which events a destination gets: those that all keys given here let through."""

    projects: list[ProjectPattern] | None = Field(
        None,
        min_length=1,
        description="Ids, paths, or patterns like `my-group/*` (subgroups included), whatever their capitals. A "
        "project that was renamed or moved is still meant by the path that it had, and the log and `check` say so. "
        "Events of no project (those of groups, their members, people) are left out.",
    )
    kinds: list[Annotated[str, AfterValidator(words.kind)]] | None = Field(
        None,
        min_length=1,
        description="Like push, merge_request, issue, note, member; or one `event_name`, like user_add_to_group.",
    )
    actions: list[Annotated[str, AfterValidator(words.action)]] | None = Field(
        None, min_length=1, description="Like open, merge, close, success, user_add_to_group."
    )
    branches: list[str] | None = Field(
        None,
        min_length=1,
        description="Names, or patterns like `release/*`; of a merge request its source or its target. Events "
        "without a branch are left out.",
    )
    expression: JMESPath | None = Field(
        None, description="JMESPath over `body` (GitLab's) and `event` (kind, action, project, …): true lets through."
    )

    @model_validator(mode="after")
    def _can_let_something_through(self) -> Filter:
        if self.kinds is not None:
            words.fit(self.kinds, self.actions, branches=self.branches is not None)
        return self


class Transform(Section):
    """What is sent instead of GitLab's body: one of these."""

    fields: list[str] | None = Field(
        None, min_length=1, description="Only these fields of the body, like project.path_with_namespace."
    )
    jmespath: JMESPath | None = Field(None, description="The result of a JMESPath over `body` and `event`.")
    template: Template | None = Field(None, description="A Jinja2 template over `body` and `event`, sandboxed.")
    content_type: HeaderValue = Field("application/json", description="What a template makes.")

    @model_validator(mode="after")
    def _one(self) -> Transform:
        if sum(one is not None for one in (self.fields, self.jmespath, self.template)) != 1:
            raise ValueError("needs exactly one of `fields`, `jmespath` and `template`")
        return self


class Destination(Section):
    """An external service that is to get events."""

    name: Name = Field(description="Its name in the ledger and in every command.")
    kind: str = Field("http", description="What it is: docs/destinations/ has a page for each kind.")
    type: Literal["events", "alerts"] = Field(
        "events", description="`events`: GitLab's. `alerts`: what the reconciler itself has to say, nothing else."
    )
    format: Literal["webhook", "cloudevents"] = Field(
        "webhook",
        description="`webhook`: GitLab's own body and headers. `cloudevents`: structured CloudEvents 1.0.",
    )
    filter: Filter = Field(default_factory=Filter, description="Which events it gets; default: all.")
    transform: Transform | None = Field(None, description="What is sent instead of GitLab's body.")
    ordering: Literal["project", "object", "none"] = Field(
        "project",
        description="`project`: the events of one project one after the other. `object`: those of one issue, merge "
        "request, branch, …. `none`: in any order.",
    )
    start_from: Annotated[Literal["now", "beginning"] | datetime, BeforeValidator(_start)] = Field(
        "now", description="From where on a new destination gets events: `now`, `beginning`, or a time."
    )
    timeout: Duration = Field("10s", validate_default=True, description="How long one attempt may take.")
    concurrency: int = Field(8, ge=1, le=256, description="How many events may be on their way at once.")
    rate_limit: Rate | None = Field(None, description="How many events are sent at most, like 10/s or 600/m.")
    retry: Retry = Field(default_factory=Retry, description="What to do when it does not take an event.")
    breaker: BreakerSettings = Field(default_factory=BreakerSettings, description="When it counts as down.")

    @model_validator(mode="after")
    def _what_it_gets(self) -> Destination:
        wanted = self.filter
        try:
            if self.type == "events":
                words.of_events(wanted.kinds or (), wanted.actions or ())
            else:
                words.of_alerts(wanted.kinds or (), wanted.actions or ())
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


def _of_its_kind(value: Any, info: ValidationInfo) -> Any:
    """The keys that an entry may have are its kind's. Mistakes are reported under their own keys."""
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
    except ValueError:  # what is wrong with the entry, pydantic's own among them
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(told(name, "its config can't be checked", error)) from error


DestinationEntry = Annotated[Destination, BeforeValidator(_of_its_kind)]
