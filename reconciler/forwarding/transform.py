"""What is sent instead of GitLab's body: chosen fields, a JMESPath's result, or a template's."""

from __future__ import annotations

from typing import Any, Protocol

from reconciler.config.destinations import Transform
from reconciler.events.fields import as_json, dig, parsed
from reconciler.forwarding.jail import Jail


class Transforming(Protocol):
    """From what is known of an event, and GitLab's body, to the bytes that are sent."""

    def __call__(self, event: dict[str, Any], payload: str) -> bytes:
        """Raises TransformFailed where it does not work for this event."""

    def close(self) -> None:
        """Give up what it holds."""


def transforming(transform: Transform) -> Transforming:
    """A transform, ready to be used. What can loop or grow runs in a process of its own."""
    if transform.template is not None:
        return Jail("template", transform.template)
    if transform.jmespath is not None:
        return Jail("jmespath", transform.jmespath)
    return _Fields(transform.fields or [])


class _Fields:
    """The body with nothing but these fields; those that it does not have are left out."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def __call__(self, event: dict[str, Any], payload: str) -> bytes:
        body = parsed(payload)
        made: dict[str, Any] = {}
        for path in self._paths:
            value = dig(body, path)
            if value is not None:
                *parents, last = path.split(".")
                place = made
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[last] = value
        return as_json(made).encode()

    def close(self) -> None:
        """Holds nothing."""
