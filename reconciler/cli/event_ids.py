"""Events on the command line: by number, as commands list them, or by the ID that destinations receive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from reconciler.cli.common import LARGEST_ID, fail
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids

_ID = re.compile(r"(?:evt_[0-9a-z]+_)?([0-9]{1,19})", re.ASCII)

BOTH = "a number, or the ID that destinations receive (evt_…)"


class EventId(msgspec.Struct, frozen=True):
    """An event ID as given. `number` is the event's only if the ID was made by this ledger."""

    named: str
    number: int


def _event_id(text: str) -> EventId:
    found = _ID.fullmatch(text)
    if found is None or not 0 < int(found[1]) <= LARGEST_ID:
        raise typer.BadParameter(f"{text!r} is not an event ID: give {BOTH}")
    return EventId(text, int(found[1]))


EventArgument = Annotated[EventId, typer.Argument(help=f"Event: {BOTH}.", parser=_event_id)]
EventsArgument = Annotated[
    list[EventId] | None,
    typer.Argument(metavar="EVENT", help=f"Events: each {BOTH}.", parser=_event_id),
]


def numbers(db: Database, ids: Sequence[EventId], *, so: str = "") -> list[int]:
    """Their numbers in the ledger. `so` is added to the error if an ID was made by another ledger."""
    id_of = event_ids(db)
    others = [one.named for one in ids if not one.named.isdigit() and id_of(one.number) != one.named]
    if others:
        fail(f"{', '.join(others)}: made by another ledger{so}")
    return [one.number for one in ids]
