"""The one place where what GitLab answered is held against what it should be.

A record of another shape costs itself and no other; any other answer of another shape is one kind of error.
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
    """An object that was understood: what is read of it, and all of it as it came."""

    shown: ShapeT
    raw: Json

    @property
    def ident(self) -> str:
        return name_of(self.raw, self.shown.name_in)


class Page(msgspec.Struct, Generic[ShapeT], frozen=True):
    """One page of a list: the records that were understood, and those that were not."""

    records: list[Read[ShapeT]]
    unreadable: list[Unreadable] = []


def read(what: str, raw: Any, shape: type[ShapeT]) -> Read[ShapeT]:
    """Hold an object against its type. `what` says where it is from.

    Raises UnexpectedAnswer.
    """
    if as_text([[[[raw]]]]) == TOO_DEEP:  # with room for what it will stand in
        raise UnexpectedAnswer(what, "it is nested too deeply")
    try:
        return Read(msgspec.convert(raw, shape), raw)
    except msgspec.ValidationError as error:
        raise UnexpectedAnswer(what, f"{str(error)[0].lower()}{str(error)[1:]}", excerpt(raw)) from None


def read_page(what: str, raw: Any, shape: type[ShapeT]) -> Page[ShapeT]:
    """Hold a list's records against their type, one by one.

    Raises UnexpectedAnswer where it is no list.
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
    """Records that were read before and put aside."""
    return [Read(msgspec.convert(raw, shape), raw) for raw in raws]


def unreadable(record: Any, name_in: str, why: str) -> Unreadable:
    """A record that can't be understood."""
    return Unreadable(name_of(record, name_in), why, as_text(record)[:RAW_CHARS])


def moment(text: str | None, field: str) -> Millis:
    """A time that a record can't do without.

    Raises ValueError.
    """
    at = times.parse(text)
    if at is None:
        raise ValueError(f"`{field}` is no time: {excerpt(text)}")
    return at


def name_of(record: Any, name_in: str) -> str:
    """What a record is known by: its own name or id; a hash of one that has none."""
    name = record.get(name_in) if isinstance(record, dict) else None
    if isinstance(name, str | int) and not isinstance(name, bool) and name != "":
        return str(name)[:200]
    return f"sha256:{hashlib.sha256(as_text(record).encode()).hexdigest()}"


def excerpt(raw: Any) -> str:
    """The beginning of an answer, for a message."""
    shown = as_text(raw)
    return shown if len(shown) <= EXCERPT_CHARS else f"{shown[:EXCERPT_CHARS]}…"


def as_text(raw: Any) -> str:
    """JSON that was parsed, as text; TOO_DEEP for what can be read and not written."""
    try:
        return orjson.dumps(raw).decode()
    except orjson.JSONEncodeError:
        return TOO_DEEP


def parse(body: bytes) -> Any:
    """JSON as GitLab may write it, with nothing in it that can't be written again: half a surrogate pair or a byte
    that is no UTF-8 in one title must not cost the page that it stands on.

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
    """JSON that was parsed, without what can't be written again, as far as that goes: a record that is nested too
    deeply is named when it is read, and costs the others nothing.
    """
    try:
        return orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (RecursionError, orjson.JSONDecodeError):
        return value
