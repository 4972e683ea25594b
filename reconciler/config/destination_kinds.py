"""The kinds of destination, found by entry point: the built-in ones and those of other packages alike."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

GROUP = "gitlab_reconciler.destinations"
_FILES = Path(__file__).parents[1] / "forwarding" / "kinds"
BUILT_IN: tuple[str, ...] = tuple(sorted(file.stem for file in _FILES.glob("[a-z]*.py")))
"""Those that come with this package, for the JSON Schema, which must not depend on what else is installed."""


class UnknownKind(ValueError):
    """There is no such kind of destination, or its package can't be loaded."""


@cache
def _known() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def kind_names() -> list[str]:
    """All installed kinds."""
    return sorted(_known())


@cache
def find_kind(name: str) -> Any:
    """The class of a kind: a subclass of `forwarding.kind.Kind`, whose `config` declares its keys.

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
    except (Exception, SystemExit) as error:  # importing a package may run any code
        raise UnknownKind(kind_error(name, "it can't be loaded", error)) from error


def kind_error(name: str, what: str, error: BaseException) -> str:
    """The message for an error in a kind's code. It names the kind and, if it is not built in, its package."""
    point = _known().get(name)
    package = "" if name in BUILT_IN or point is None or point.dist is None else f" (package {point.dist.name})"
    return f"kind {name}{package}: {what}: {type(error).__name__}: {error}"[:500]
