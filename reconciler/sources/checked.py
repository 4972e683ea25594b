"""Checks GitLab's answers against their types.

A record of a list that does not match its type is left out alone; any other answer that does not match is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
import orjson

from reconciler.events import times
from reconciler.events.fields import parsed
from reconciler.events.times import Millis
from reconciler.events.unreadable import RAW_CHARS, Unreadable
from reconciler.sources.answers import Json, Shape
from reconciler.sources.errors import UnexpectedAnswer

EXCERPT_CHARS = 120
TOO_DEEP = "(nested too deeply)"

ShapeT = TypeVar("ShapeT", bound=Shape)


class Read(msgspec.Struct, Generic[ShapeT], frozen=True):
    """An object that matches its type: the typed fields in `shown`, the whole object in `raw`."""

    shown: ShapeT
    raw: Json

    @property
    def ident(self) -> str:
        return name_of(self.raw, self.shown.name_in)


class Page(msgspec.Struct, Generic[ShapeT], frozen=True):
    """One page of a list: the records that match their type, and those that don't."""

    records: list[Read[ShapeT]]
    unreadable: list[Unreadable] = []


def read(what: str, raw: Any, shape: type[ShapeT]) -> Read[ShapeT]:
    """Check an object against its type. `what` says where it is from.

    Raises UnexpectedAnswer.
    """
    if as_text([[[[raw]]]]) == TOO_DEEP:  # leaves room for the JSON that it will be put into
        raise UnexpectedAnswer(what, "it is nested too deeply")
    try:
        return Read(msgspec.convert(raw, shape), raw)
    except msgspec.ValidationError as error:
        raise UnexpectedAnswer(what, f"{str(error)[0].lower()}{str(error)[1:]}", excerpt(raw)) from None


def read_page(what: str, raw: Any, shape: type[ShapeT]) -> Page[ShapeT]:
    """Check the records of a list against their type, one by one.

    Raises UnexpectedAnswer if it is not a list.
    """
    if not isinstance(raw, list):
        raise UnexpectedAnswer(what, "expected a list", excerpt(raw))
    page: Page[ShapeT] = Page([], [])
    for record in raw:
        try:
            page.records.append(read(what, record, shape))
        except UnexpectedAnswer as error:
            page.unreadable.append(unreadable(record, shape.name_in, error.why))
    return page


def read_again(raws: Sequence[Json], shape: type[ShapeT]) -> list[Read[ShapeT]]:
    """Convert records that were checked before and put aside."""
    return [Read(msgspec.convert(raw, shape), raw) for raw in raws]


def unreadable(record: Any, name_in: str, why: str) -> Unreadable:
    """A record that can't be used."""
    return Unreadable(name_of(record, name_in), why, as_text(record)[:RAW_CHARS])


def moment(text: str | None, field: str) -> Millis:
    """A time that a record must have.

    Raises ValueError.
    """
    at = times.parse(text)
    if at is None:
        raise ValueError(f"`{field}` is not a time: {excerpt(text)}")
    return at


def name_of(record: Any, name_in: str) -> str:
    """What identifies a record: its name or id; without one, a hash."""
    name = record.get(name_in) if isinstance(record, dict) else None
    if isinstance(name, str | int) and not isinstance(name, bool) and name != "":
        return str(name)[:200]
    return f"sha256:{hashlib.sha256(as_text(record).encode()).hexdigest()}"


def excerpt(raw: Any) -> str:
    """The beginning of an answer, for an error message."""
    shown = as_text(raw)
    return shown if len(shown) <= EXCERPT_CHARS else f"{shown[:EXCERPT_CHARS]}…"


def as_text(raw: Any) -> str:
    """Parsed JSON as text; TOO_DEEP for a value that can be parsed but not written."""
    try:
        return orjson.dumps(raw).decode()
    except orjson.JSONEncodeError:
        return TOO_DEEP


def parse(body: bytes) -> Any:
    """Parse JSON from GitLab so that it can be written again: half a surrogate pair or a byte that is not UTF-8 in
    one title must not cost the whole page.

    Raises ValueError.
    """
    try:
        value = parsed(body)
    except UnicodeDecodeError:
        value = parsed(body.decode("utf-8", "replace"))
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return _rewritten(value)
    return value


def _rewritten(value: Any) -> Any:
    """Parsed JSON, with the parts replaced that can't be written again. A record that is nested too deeply is left as
    it is: it is reported when it is read.
    """
    try:
        return orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (RecursionError, orjson.JSONDecodeError):
        return value
