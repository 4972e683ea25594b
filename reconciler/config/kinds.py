"""The kinds of destination: found by entry point, ours and those that others' packages bring, by the same door."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "gitlab_reconciler.destinations"
BUILT_IN = ("file", "http", "kafka", "nats", "rabbitmq", "redis", "stdout")
"""Those that come with this package, for the JSON Schema, which must not depend on what else is installed."""


class UnknownKind(ValueError):
    """There is no such kind of destination, or what brings it can't be loaded."""


@cache
def _known() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def kind_names() -> list[str]:
    """Every kind that is installed."""
    return sorted(_known())


@cache
def find_kind(name: str) -> Any:
    """The class of a kind: a subclass of `forwarding.kind.Kind`, whose `config` says which keys it takes.

    Raises UnknownKind.
    """
    point = _known().get(name)
    if point is None:
        near = get_close_matches(name.lower(), kind_names(), n=1)
        raise UnknownKind(
            f"there is no kind {name!r}: did you mean {near[0]!r}?"
            if near
            else f"there is no kind {name!r}; there are: {', '.join(kind_names())}"
        )
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # importing a package runs all that it does at that time
        raise UnknownKind(told(name, "it can't be loaded", error)) from error


def told(name: str, what: str, error: BaseException) -> str:
    """An error of a kind's own code, in words that name the kind and, where it is another's, its package."""
    point = _known().get(name)
    package = "" if name in BUILT_IN or point is None or point.dist is None else f" (package {point.dist.name})"
    return f"kind {name}{package}: {what}: {type(error).__name__}: {error}"[:500]
