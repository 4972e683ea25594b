"""The data that a body is rebuilt from, and the markers for unknown values."""

from __future__ import annotations

from typing import Any, Final

import msgspec

Json = dict[str, Any]


class SourceData(msgspec.Struct, frozen=True):
    """The API's data about one event, as GitLab's JSON objects.

    `record` is the record that reported the event, from the Events API or a list. `project` is the project, at least
    its `id`; `object` the issue, merge request, pipeline or the like that it is about, if it was read. `more` has
    what belongs to a kind: `commits`, `jobs`, `noteable`, `changes`.
    """

    record: Json
    project: Json
    action: str | None = None
    object: Json = {}
    more: Json = {}

    @property
    def author(self) -> Json:
        """The user who did it; empty if the record does not say."""
        found = self.record.get("author") or self.record.get("user")
        return found if isinstance(found, dict) else {}


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()
"""Marks a value that GitLab's webhook has but its API does not show. It becomes null."""


class Guess(msgspec.Struct, frozen=True):
    """Marks a value that may differ from the webhook's, or is only a part of it."""

    value: Any


def known(source: Json, *names: str) -> Any:
    """The first of these fields that is present, even if null; UNKNOWN if none is."""
    return next((source[name] for name in names if name in source), UNKNOWN)


def remove_markers(body: Any, path: str = "") -> tuple[Any, list[str]]:
    """Remove the markers from a body. Returns the body and the markers' paths; elements of a list share a path, like
    `commits[].added`."""
    if body is UNKNOWN:
        return None, [path]
    if isinstance(body, Guess):
        value, below = remove_markers(body.value, path)
        return value, [path, *below]
    if isinstance(body, dict):
        made = {}
        marks: list[str] = []
        for name, value in body.items():
            made[name], below = remove_markers(value, f"{path}.{name}" if path else name)
            marks += below
        return made, marks
    if isinstance(body, list):
        settled = [remove_markers(item, f"{path}[]") for item in body]
        return [value for value, _ in settled], [mark for _, below in settled for mark in below]
    return body, []
