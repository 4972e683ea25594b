"""The kinds of destination: found by entry point, ours and those that others' packages bring, by the same door."""

from __future__ import annotations

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
        raise UnknownKind(f"there is no kind {name!r}; there are: {', '.join(kind_names())}")
    try:
        return point.load()
    except ImportError as error:
        raise UnknownKind(f"kind {name}: {error}") from None
