"""A destination's config as text, without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args
from urllib.parse import urlsplit

import msgspec
from pydantic import BaseModel, BeforeValidator, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from reconciler.config import units
from reconciler.config.destinations import Destination
from reconciler.events.texts import without_credentials
from reconciler.events.times import Millis

HIDDEN = "(hidden)"
_ELSEWHERE = ("name", "kind", "type", "url", "servers")
"""Shown in another way: a URL by its kind's address, which leaves out what is secret in it."""
_DURATIONS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))
_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


class Setting(msgspec.Struct, frozen=True):
    """A key of the config, with dots, and its value as the config has it."""

    key: str
    value: str


def settings(destination: Destination) -> list[Setting]:
    """The keys that the config sets for a destination."""
    return [one for one in _of(destination, "") if one.key not in _ELSEWHERE]


def _of(section: BaseModel, prefix: str) -> Iterator[Setting]:
    for name, field in type(section).model_fields.items():
        if name in section.model_fields_set:
            yield from _values(f"{prefix}{name}", getattr(section, name), field)


def _values(key: str, value: Any, field: FieldInfo) -> Iterator[Setting]:
    if isinstance(value, BaseModel):
        yield from _of(value, f"{key}.")
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _values(f"{key}.{name}", part, field)
    elif isinstance(value, list | tuple):
        yield Setting(key, ", ".join(_text(one, field) for one in value))
    elif value is not None:
        yield Setting(key, _text(value, field))


def _text(value: Any, field: FieldInfo) -> str:
    if isinstance(value, SecretStr | SecretBytes):
        return HIDDEN
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, int | float):
        return _number(value, field)
    return _without_secrets(str(value))


def _without_secrets(text: str) -> str:
    """A URL may have a secret in its login and in its query, even if its type says nothing of it."""
    if "://" not in text or " " in text or "\n" in text:
        return without_credentials(text)
    try:
        return without_credentials(urlsplit(text)._replace(query="", fragment="").geturl())
    except ValueError:
        return HIDDEN


def _number(value: float, field: FieldInfo) -> str:
    """A number with the unit that its field is written with."""
    used = list(_parts(field))
    if Millis in used:
        return _exactly(value, _DURATIONS)
    if units.size in used:
        return _exactly(value, _SIZES)
    if units.rate in used:
        return f"{value:g}/s" if value >= 1 or value * 3600 % 1 else f"{value * 3600:g}/h"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _exactly(value: float, names: tuple[tuple[int, str], ...]) -> str:
    """In the largest unit that divides it."""
    size, name = next((one for one in names if value and value % one[0] == 0), names[-1])
    return f"{int(value // size)}{name}"


def _parts(field: FieldInfo) -> Iterator[Any]:
    """The types that a field's type is made of, and the functions that read them."""
    left: list[Any] = [field.annotation, *field.metadata]
    while left:
        one = left.pop()
        yield one.func if isinstance(one, BeforeValidator) else one
        left += get_args(one)
