"""Decides which events a destination gets, by its `filter`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

from reconciler.config.destinations import Destination, FilterConfig
from reconciler.events.fields import first_text
from reconciler.events.sighting import ALERT, OWN_KINDS, Summary
from reconciler.events.webhooks import KIND_OF
from reconciler.ledger.queue.routes import Candidate, Route, Undecided

EXPRESSION_S = 0.1
"""How much CPU time an expression may take for one event: everything else waits for it."""
_HEADS = "refs/heads/"

Test = Callable[[Candidate], bool]


def routes(destinations: Iterable[Destination], ids: Mapping[str, int]) -> list[Route]:
    """The ledger's routes to these destinations. `ids` are the destinations' ids in the ledger, by name."""
    return [
        Route(ids[destination.name], destination.ordering, make_filter(destination))
        for destination in destinations
        if destination.name in ids
    ]


def make_filter(destination: Destination) -> Test:
    """A destination's whole filter as one test. The test may raise Undecided."""
    tests = [test for _, test in conditions(destination)]
    return lambda candidate: all(test(candidate) for test in tests)


def conditions(destination: Destination) -> list[tuple[str, Test]]:
    """The conditions of a filter by name, cheap ones first."""
    wanted = destination.filter
    if destination.type == "alerts":
        found: list[tuple[str, Test]] = [("type: alerts", lambda c: c.summary.kind == ALERT)]
    else:
        found = [("type: events", lambda c: c.summary.kind not in OWN_KINDS)]
    if wanted.projects is not None:
        found.append(("projects", _projects(wanted)))
    if wanted.kinds is not None:
        found.append(("kinds", _kinds(wanted.kinds)))
    if wanted.actions is not None:
        actions = frozenset(wanted.actions)
        found.append(("actions", lambda c: c.summary.action in actions))
    if wanted.branches is not None:
        branches = wanted.branches
        found.append(("branches", lambda c: any(fnmatchcase(b, p) for b in _branches(c) for p in branches)))
    if wanted.expression is not None:
        found.append(("expression", _expression(wanted.expression)))
    return found


def facts(about: Summary, source: str) -> dict[str, Any]:
    """The `event` that expressions and templates get."""
    return {
        "kind": about.kind,
        "action": about.action,
        "project": about.project_path,
        "project_id": about.project_id,
        "author": about.author,
        "title": about.title,
        "branch": _branch(about.ref),
        "ref": about.ref,
        "object": about.object,
        "source": source,
    }


def _kinds(words: Iterable[str]) -> Test:
    """By kind, or by the `event_name` that is the action of a kind such as `member`."""
    wanted = frozenset(words)

    def test(candidate: Candidate) -> bool:
        about = candidate.summary
        return about.kind in wanted or (about.action in wanted and KIND_OF.get(about.action or "") == about.kind)

    return test


def path_matches(path: str, pattern: str) -> bool:
    """Whether a pattern matches a project's path. Paths in GitLab are case-insensitive."""
    return fnmatchcase(path.lower(), pattern.lower())


def _projects(wanted: FilterConfig) -> Test:
    """By id, by path, and by a project's former paths, so that a renamed project still matches."""
    ids = frozenset(one for one in wanted.projects or () if isinstance(one, int))
    patterns = [one for one in wanted.projects or () if isinstance(one, str)]

    def test(candidate: Candidate) -> bool:
        path = candidate.summary.project_path or ""
        return (
            candidate.summary.project_id in ids
            or any(path_matches(path, pattern) for pattern in patterns)
            or any(path_matches(path, pattern) for pattern in patterns for path in candidate.other_paths)
        )

    return test


def _expression(text: str) -> Test:
    compiled = jmespath.compile(text)

    def test(candidate: Candidate) -> bool:
        seen = {"event": facts(candidate.summary, candidate.source), "body": candidate.body}
        try:
            found = _Limited().visit(compiled.parsed, seen)
        except Undecided:
            raise
        except JMESPathError as error:
            raise Undecided(str(error).splitlines()[0]) from None
        except Exception as error:  # for example a body too deep for `to_string`: it must not block the recording
            raise Undecided(f"{type(error).__name__}: {error}"[:1000]) from error
        return bool(found) or found == 0  # JMESPath counts null, false and empty values as false

    return test


class _Limited(TreeInterpreter):
    """JMESPath's interpreter with a time limit: a body can make nested projections loop a great many times."""

    def __init__(self) -> None:
        super().__init__()
        self._until = time.thread_time() + EXPRESSION_S

    def visit(self, node: Any, *args: Any, **options: Any) -> Any:
        if time.thread_time() > self._until:
            raise Undecided(f"it takes more than {EXPRESSION_S:g} s of CPU time")
        return super().visit(node, *args, **options)


def _branches(candidate: Candidate) -> list[str]:
    """The branches that an event is about. A merge request has two."""
    found = [_branch(candidate.summary.ref)]
    if candidate.summary.kind == "merge_request":
        found.append(first_text(candidate.body, "object_attributes.target_branch"))
    return [branch for branch in found if branch is not None]


def _branch(ref: str | None) -> str | None:
    if ref is None or ref.startswith("refs/tags/"):
        return None
    return ref.removeprefix(_HEADS)
