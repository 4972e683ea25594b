"""Transforms GitLab's body: keeps some fields, or applies a JMESPath expression or a template."""

from __future__ import annotations

from typing import Any, Protocol

from reconciler.config.destinations import Transform
from reconciler.events.fields import as_json, dig, parsed
from reconciler.forwarding.jail import Jail


class Transformer(Protocol):
    """Makes the body to be sent, from an event's facts and GitLab's body."""

    def __call__(self, event: dict[str, Any], payload: str) -> bytes:
        """Raises TransformFailed if it fails for this event."""

    def close(self) -> None:
        """Release its resources."""


def make_transform(transform: Transform) -> Transformer:
    """A transformer for a config's transform. Templates and JMESPath run in a process of their own."""
    if transform.template is not None:
        return Jail("template", transform.template)
    if transform.jmespath is not None:
        return Jail("jmespath", transform.jmespath)
    return _Fields(transform.fields or [])


class _Fields:
    """Keeps only these fields of the body; missing ones are left out."""

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
        """Nothing to release."""
