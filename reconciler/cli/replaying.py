"""Replaying events, for `replay` and `dead-letters replay`: counts, asks, and queues them at a given rate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reconciler.cli.common import USAGE, err, fail, out, print_json
from reconciler.cli.event_ids import numbers
from reconciler.cli.filter_hints import filter_hints
from reconciler.config.models import Config
from reconciler.config.units import rate as read_rate
from reconciler.events import times
from reconciler.forwarding.replaying import ways
from reconciler.ledger.queue import replay
from reconciler.ledger.queue.replay import EVENTS_A_STEP, ReplayRequest
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage.connection import opened, there_is
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import EventId

STEPS_A_SECOND = 5
LINE_EVERY_S = 5.0
_NOTHING_SENT = "; nothing was replayed"

RateOption = Annotated[str | None, typer.Option("--rate", help="Maximum rate, like 50/s. Default: no limit.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def replay_events(
    config: Config,
    file: Path,
    wanted: ReplayRequest,
    event_ids: Sequence[EventId],
    *,
    destination: str | None,
    rate: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Find and count the wanted events, ask, and queue them again. If IDs are given, only those events.

    If interrupted, prints how many are queued; those stay queued.
    """
    if destination is not None and destination not in [known.name for known in config.destinations]:
        fail(f"no destination named {destination!r} in {file}", USAGE)
    per_second = _rate(rate)
    if not there_is(config.ledger.location):
        fail(f"{config.ledger.location}: there is no ledger yet")
    with opened(config.ledger.location) as db:
        wanted = msgspec.structs.replace(wanted, event_ids=tuple(numbers(db, event_ids, so=_NOTHING_SENT)))
        wanted = replay.of_now(db, wanted)
        check_ids(db, wanted, so=_NOTHING_SENT)
        to = ways(db, config, destination)
        counts, letters = dict[str, int](), set[int]()
        for name, route in to.items():
            counts[name] = 0
            for one in replay.find(db, wanted, route):
                counts[name] += 1
                if wanted.event_ids:
                    letters.add(one.event_id)
        none = sorted(set(wanted.event_ids) - letters)
        if wanted.dead_letters_only and none:
            of = "" if destination is None else f" of {destination}"
            fail(f"{event_names(none)}: no dead letter{of}{_NOTHING_SENT}")
        total = sum(counts.values())
        if total == 0:
            notes = filter_hints(db, wanted.filter)
            if notes:
                fail("; ".join(notes) + _NOTHING_SENT)
            _report(as_json, counts, 0)
            return
        for name, number in counts.items():
            if not (as_json and yes):
                err.print(f"{name}: {number:,} to replay")
        if not yes and not typer.confirm("Replay them?", err=True):
            fail("nothing was changed")
        replaying = _Replaying(db, total, per_second)
        try:
            for route in to.values():
                replaying.run(wanted, route)
        except KeyboardInterrupt:
            err.print(f"Interrupted: {replaying.done:,} of {total:,} are queued for delivery.")
            raise
        finally:
            replaying.progress.stop()
        _report(as_json, counts, replaying.done)


def check_ids(db: Database, wanted: ReplayRequest, *, so: str) -> None:
    """Refuse if any of the IDs is unknown: a part of what was asked for would be misleading. `so` says what became of
    them.
    """
    wrong = replay.unknown(db, wanted.event_ids)
    if wrong:
        became = [f"event {one} is the same as event {other}" for one, other in wrong.items() if other is not None]
        nothing = [one for one, other in wrong.items() if other is None]
        words = [f"{event_names(nothing)}: not in this ledger"] if nothing else []
        fail("; ".join([*words, *became]) + so)


def event_names(ids: list[int]) -> str:
    """Events, as a message names them."""
    return f"event{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids))}"


class _Replaying:
    """Queues deliveries in small steps. Shows a progress bar on a terminal, else a line from time to time."""

    def __init__(self, db: Database, total: int, per_second: float | None) -> None:
        self.done = 0
        self._db = db
        self._total = total
        self._per_second = per_second
        self._said_at = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._task = self.progress.add_task("replaying", total=total)
        self.progress.start()

    def run(self, wanted: ReplayRequest, route: Route) -> None:
        step = EVENTS_A_STEP
        if self._per_second is not None:
            step = max(1, min(step, int(self._per_second / STEPS_A_SECOND)))
        found = replay.find(self._db, wanted, route)
        while some := list(islice(found, step)):
            began = time.monotonic()
            replay.queue_replays(self._db, route.destination_id, some, now=times.now())
            self.done += len(some)
            self._show(len(some))
            if self._per_second is not None and self.done < self._total:
                time.sleep(max(0.0, began + len(some) / self._per_second - time.monotonic()))

    def _show(self, more: int) -> None:
        self.progress.update(self._task, advance=more)
        if not err.is_terminal and time.monotonic() - self._said_at > LINE_EVERY_S:
            self._said_at = time.monotonic()
            err.print(f"{self.done:,} of {self._total:,} are queued for delivery")


def _rate(text: str | None) -> float | None:
    try:
        return None if text is None else read_rate(text)
    except ValueError as error:
        raise typer.BadParameter(f"--rate {error}") from None


def _report(as_json: bool, counts: dict[str, int], replayed: int) -> None:
    if as_json:
        print_json({"destinations": counts, "replayed": replayed})
    elif replayed:
        out.print(f"Queued for delivery: {replayed:,}.")
    else:
        out.print("Nothing matches.")
