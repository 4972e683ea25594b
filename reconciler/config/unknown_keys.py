"""Which keys there are where, to explain a key that is misspelt, in the wrong place, or has an old name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from reconciler.config.destination_kinds import BUILT_IN, UnknownKind, find_kind
from reconciler.config.messages import NEAR, VERY_NEAR, meant
from reconciler.config.mistakes import Path_
from reconciler.config.models import Config
from reconciler.config.renamed import new_name


def unknown_key(values: Any, path: Path_) -> str:
    """The message for an unknown key: its new name, which is meant, where it belongs, or which keys there are."""
    name = str(path[-1])
    section = _section_at(values, path[:-1])
    known = [] if section is None else _keys(section)
    now_called = new_name(path)
    if now_called in known:  # only the kind `file` has `max_files`
        return f"is now called `{now_called}`"
    elsewhere = _places(name)
    near = meant(name, known, cutoff=VERY_NEAR if elsewhere else NEAR)
    if near is not None:
        return f"unknown key: did you mean `{near}`?"
    if elsewhere:
        return f"unknown key here: it is a key of {', '.join(elsewhere)}"
    return f"unknown key; known keys are {', '.join(known)}" if known else "unknown key"


def _section_at(values: Any, path: Path_) -> type[BaseModel] | None:
    """The section that a way leads to. Which keys a destination has depends on its kind."""
    section: type[BaseModel] | None = Config
    for step in path:
        try:
            values = values[step]
        except (LookupError, TypeError):
            values = None
        if isinstance(step, int) and path[:1] == ("destinations",) and len(path[: path.index(step) + 1]) == 2:
            section = _kind(values)
        elif isinstance(step, str):
            field = None if section is None else section.model_fields.get(step)
            section = None if field is None else section_in(field.annotation)
    return section


def _kind(entry: Any) -> type[BaseModel] | None:
    try:
        return find_kind(str(entry.get("kind", "http"))).config if isinstance(entry, dict) else None
    except UnknownKind:
        return None


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, or a list of which it holds; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in getattr(annotation, "__args__", ()) if (found := section_in(one))), None)


def _keys(section: type[BaseModel]) -> list[str]:
    return list(section.model_fields)


def _places(name: str) -> list[str]:
    """The sections, and the kinds of destination, that have a key of this name."""
    places = [where for where, section in _sections(Config, "") if name in section.model_fields]
    kinds = [kind for kind in BUILT_IN if name in find_kind(kind).config.model_fields]
    if len(kinds) == len(BUILT_IN):
        return [*places, "`destinations`"]
    return [*places, *(f"destinations of the kind {kind}" for kind in kinds)]


def _sections(section: type[BaseModel], where: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None and name != "destinations":
            path = f"{where}.{name}" if where else name
            yield f"`{path}`", inner
            yield from _sections(inner, path)
