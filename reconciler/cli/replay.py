"""`replay`: send events again."""

from __future__ import annotations

from typing import Annotated

import typer

from reconciler.cli.common import (
    DEFAULT_CONFIG,
    USAGE,
    ConfigOption,
    JsonOption,
    fail,
    project_name,
    read_config,
)
from reconciler.cli.event_ids import EventsArgument
from reconciler.cli.moments import FromOption, ToOption, time_range
from reconciler.cli.resend import RateOption, YesOption, send_again
from reconciler.ledger.queue.resend import ResendRequest
from reconciler.ledger.views.browse import Filter


def replay(
    event_ids: EventsArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    since: FromOption = None,
    until: ToOption = None,
    project: Annotated[str | None, typer.Option(help="Only this project: id or path.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only to this destination.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only dead letters.")] = False,
    rate: RateOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send events again: by id, by time, to one destination, or all dead letters. Counts and asks first.

    A running service sends them at once; otherwise they go out at its next start. Ids stay the same, so that a
    consumer that knows them already can tell; the header X-Reconciler-Replay says that it is a replay. An event that
    a destination never was to get is sent to it only where it is named by its id.
    """
    if not (event_ids or since or until or dead):
        fail("say which: event ids, --from and --to, or --dead", USAGE)
    loaded = read_config(config)
    start, end = time_range(since, until)
    wanted = ResendRequest(
        filter=Filter(project=project_name(project), kind=kind, since=start, until=end),
        dead_only=dead,
    )
    send_again(loaded, config, wanted, event_ids or [], destination=destination, rate=rate, yes=yes, as_json=as_json)
