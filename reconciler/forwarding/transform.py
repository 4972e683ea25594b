"""What is sent instead of GitLab's body: chosen fields, a JMESPath's result, or a template's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jmespath
import orjson
from jinja2 import TemplateError
from jmespath.exceptions import JMESPathError

from reconciler.config.destinations import Transform, compiled_template
from reconciler.events.fields import dig


class TransformFailed(Exception):
    """This event can't be transformed. The message says why."""


Seen = dict[str, Any]
"""`body` and `event`."""


def transforming(transform: Transform) -> Callable[[Seen], bytes]:
    """A transform as a function from what it sees to the bytes that are sent. It raises TransformFailed."""
    if transform.template is not None:
        return _template(transform.template)
    if transform.jmespath is not None:
        return _jmespath(transform.jmespath)
    return _fields(transform.fields or [])


def _fields(paths: list[str]) -> Callable[[Seen], bytes]:
    """The body with nothing but these fields; those that it does not have are left out."""

    def make(seen: Seen) -> bytes:
        made: dict[str, Any] = {}
        for path in paths:
            value = dig(seen["body"], path)
            if value is not None:
                *parents, last = path.split(".")
                place = made
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[last] = value
        return orjson.dumps(made)

    return make


def _jmespath(text: str) -> Callable[[Seen], bytes]:
    compiled = jmespath.compile(text)

    def make(seen: Seen) -> bytes:
        try:
            return orjson.dumps(compiled.search(seen))
        except JMESPathError as error:
            raise TransformFailed(f"jmespath: {str(error).splitlines()[0]}") from None

    return make


def _template(text: str) -> Callable[[Seen], bytes]:
    compiled = compiled_template(text)

    def make(seen: Seen) -> bytes:
        try:
            return compiled.render(seen).encode()
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise TransformFailed(f"template: {error}") from None

    return make
