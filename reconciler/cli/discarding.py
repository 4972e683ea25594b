"""Discarding dead letters, for `dead-letters discard`: counts, asks, and marks them as handled."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import typer

from reconciler.cli.common import USAGE, err, fail, out, print_json
from reconciler.cli.event_ids import numbers
from reconciler.cli.filter_hints import filter_hints
from reconciler.cli.replaying import check_ids, event_names
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.ledger import beside
from reconciler.ledger.queue.destinations import destination_states
from reconciler.ledger.queue.discarding import dead_letters
from reconciler.ledger.queue.replay import ReplayRequest, of_now
from reconciler.ledger.storage.connection import opened, there_is
from reconciler.ledger.storage.ids import EventId

_NOTHING = "; nothing was discarded"


def discard_dead_letters(
    config: Config,
    wanted: ReplayRequest,
    event_ids: Sequence[EventId],
    *,
    destination: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Find and count the wanted dead letters, ask, and discard exactly these. If IDs are given, only those of these
    events.
    """
    if not there_is(config.ledger.location):
        fail(f"{config.ledger.location}: there is no ledger yet")
    with opened(config.ledger.location) as db:
        wanted = msgspec.structs.replace(wanted, event_ids=tuple(numbers(db, event_ids, so=_NOTHING)))
        wanted = of_now(db, wanted)
        check_ids(db, wanted, so=_NOTHING)
        states = destination_states(db)
        if destination is not None and destination not in [one.name for one in states]:
            fail(f"the ledger knows no destination {destination!r}{_NOTHING}", USAGE)
        chosen = {one.name: one.id for one in states if destination in (None, one.name)}
        found = {
            name: [event_id for step in dead_letters(db, wanted, ident) for event_id in step]
            for name, ident in chosen.items()
        }
        if none := sorted(set(wanted.event_ids).difference(*found.values())):
            of = "" if destination is None else f" of {destination}"
            fail(f"{event_names(none)}: no dead letter{of}{_NOTHING}")
        counts = {name: len(ids) for name, ids in found.items()}
        if not any(counts.values()):
            if notes := filter_hints(db, wanted.filter):
                fail("; ".join(notes) + _NOTHING)
            _report(as_json, counts, 0)
            return
        for name, number in counts.items():
            if number and not (as_json and yes):
                err.print(f"{name}: {number:,} to discard")
        if not yes and not typer.confirm("Discard them?", err=True):
            fail("nothing was changed")
        done = sum(beside.discard_dead_letters(db, chosen[name], ids, now=times.now()) for name, ids in found.items())
        _report(as_json, counts, done)


def _report(as_json: bool, counts: dict[str, int], discarded: int) -> None:
    if as_json:
        print_json({"destinations": counts, "discarded": discarded})
    elif discarded:
        out.print(f"Discarded: {discarded:,}. `replay` with their IDs delivers them after all.")
    else:
        out.print("Nothing matches.")
