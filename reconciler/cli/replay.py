"""`replay`: send events again."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from reconciler.cli.common import (
    DEFAULT_CONFIG,
    USAGE,
    ConfigOption,
    FromOption,
    JsonOption,
    ToOption,
    err,
    fail,
    moment,
    out,
    print_json,
    project_name,
    read_config,
)
from reconciler.events import times
from reconciler.ledger import replay as reopening
from reconciler.ledger.browse import Filter
from reconciler.ledger.connection import connect
from reconciler.ledger.replay import Wanted


def replay(
    event_ids: Annotated[list[int] | None, typer.Argument(help="Events, as `events` lists them.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    since: FromOption = None,
    until: ToOption = None,
    project: Annotated[str | None, typer.Option(help="Only this project: id or path.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only to this destination.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only dead letters.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send events again: by id, by time, to one destination, or all dead letters. Counts and asks first.

    A running service sends them at once; otherwise they go out at its next start. Ids stay the same, so that a
    consumer that knows them already can tell.
    """
    if not (event_ids or since or until or dead):
        fail("say which: event ids, --from and --to, or --dead", USAGE)
    loaded = read_config(config)
    if destination is not None and destination not in [known.name for known in loaded.destinations]:
        fail(f"no destination named {destination!r} in {config}", USAGE)
    wanted = Wanted(
        filter=Filter(
            project=project_name(project), kind=kind, since=moment(since), until=moment(until, end_of_day=True)
        ),
        event_ids=tuple(event_ids or ()),
        destination=destination,
        dead_only=dead,
    )
    if not loaded.ledger.path.exists():
        fail(f"{loaded.ledger.path}: there is no ledger yet")
    with closing(connect(loaded.ledger.path)) as db:
        counts = reopening.count(db, wanted)
        total = sum(counts.values())
        if total == 0:
            _report(as_json, counts, 0)
            return
        for name, number in counts.items():
            err.print(f"{name}: {number:,} to send again", highlight=False, markup=False)
        if not yes and not typer.confirm("Send them again?", err=True):
            fail("nothing was changed")
        _report(as_json, counts, reopening.reopen(db, wanted, now=times.now()))


def _report(as_json: bool, counts: dict[str, int], reopened: int) -> None:
    if as_json:
        print_json({"destinations": counts, "reopened": reopened})
    elif reopened:
        out.print(f"Open again: {reopened:,}.", highlight=False)
    else:
        out.print("Nothing matches.", highlight=False)
