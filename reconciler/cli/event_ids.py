"""Events on the command line: by number, as commands list them, or by the ID that destinations receive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from reconciler.cli.common import fail
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import EventId, of_other_ledgers, read_event_id

BOTH = "a number, or the ID that destinations receive (evt_…)"


def _event_id(text: str) -> EventId:
    found = read_event_id(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not an event ID: give {BOTH}")
    return found


EventArgument = Annotated[EventId, typer.Argument(help=f"Event: {BOTH}.", parser=_event_id)]
EventsArgument = Annotated[
    list[EventId] | None,
    typer.Argument(metavar="EVENT", help=f"Events: each {BOTH}.", parser=_event_id),
]


def numbers(db: Database, ids: Sequence[EventId], *, so: str = "") -> list[int]:
    """Their numbers in the ledger. `so` is added to the error if an ID was made by another ledger."""
    if others := of_other_ledgers(db, ids):
        fail(f"{', '.join(others)}: made by another ledger{so}")
    return [one.number for one in ids]
