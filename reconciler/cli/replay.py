"""`replay`: deliver events again."""

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
from reconciler.cli.replaying import RateOption, YesOption, replay_events
from reconciler.ledger.queue.replay import ReplayRequest
from reconciler.ledger.views.browse import Filter


def replay(
    event_ids: EventsArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    since: FromOption = None,
    until: ToOption = None,
    project: Annotated[str | None, typer.Option(help="Only this project (ID or path).")] = None,
    kind: Annotated[str | None, typer.Option(help="Only events of this kind.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only to this destination.")] = None,
    dead: Annotated[bool, typer.Option("--dead-letters", help="Only dead letters.")] = False,
    rate: RateOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deliver events again: by ID, by time, or all dead letters. Shows the counts and asks first.

    A running service delivers them at once; otherwise they are delivered at its next start. IDs stay the same, so
    that consumers can tell which events they already have; the header X-Reconciler-Replay marks a replay. An event
    that a destination's filter excludes is delivered to it only if you give its ID. `--dead-letters` does the same as
    `dead-letters replay`.
    """
    if not (event_ids or since or until or dead):
        fail("say which events: give IDs, --from and --to, or --dead-letters", USAGE)
    loaded = read_config(config)
    start, end = time_range(since, until)
    wanted = ReplayRequest(
        filter=Filter(project=project_name(project), kind=kind, since=start, until=end),
        dead_letters_only=dead,
    )
    replay_events(
        loaded, config, wanted, event_ids or [], destination=destination, rate=rate, yes=yes, as_json=as_json
    )
