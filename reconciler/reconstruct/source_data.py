"""What a body is rebuilt from, and the marks for what can't be known."""

from __future__ import annotations

from typing import Any, Final

import msgspec

Json = dict[str, Any]


class SourceData(msgspec.Struct, frozen=True):
    """What the API told of one event. All are its JSON objects as they came.

    `record` is what told of the event: a record of the Events API or of a list. `project` is the project, at least
    its `id`; `object` the issue, merge request, pipeline or the like that it is about, where it was asked for.
    `more` holds what belongs to a kind: `commits`, `jobs`, `noteable`, `changes`.
    """

    record: Json
    project: Json
    action: str | None = None
    object: Json = {}
    more: Json = {}

    @property
    def author(self) -> Json:
        """Who did it, as far as the record tells."""
        found = self.record.get("author") or self.record.get("user")
        return found if isinstance(found, dict) else {}


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
"""Stands in a body for a value that GitLab's webhook has and its API did not tell; becomes null."""


class Guess(msgspec.Struct, frozen=True):
    """Stands in a body for a value of which another may be the truth, or only part was told."""

    value: Any


def known(source: Json, *names: str) -> Any:
    """The first of these fields that is there, null included; UNKNOWN where none is."""
    return next((source[name] for name in names if name in source), UNKNOWN)


def resolve_marks(body: Any, path: str = "") -> tuple[Any, list[str]]:
    """A body without marks, and the paths where they stood. Elements of a list share a path: `commits[].added`."""
    if body is UNKNOWN:
        return None, [path]
    if isinstance(body, Guess):
        value, below = resolve_marks(body.value, path)
        return value, [path, *below]
    if isinstance(body, dict):
        made = {}
        marks: list[str] = []
        for name, value in body.items():
            made[name], below = resolve_marks(value, f"{path}.{name}" if path else name)
            marks += below
        return made, marks
    if isinstance(body, list):
        settled = [resolve_marks(item, f"{path}[]") for item in body]
        return [value for value, _ in settled], [mark for _, below in settled for mark in below]
    return body, []
