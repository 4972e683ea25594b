"""`dead-letters`: list dead letters, show them with request and responses, deliver them again, or discard them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from reconciler.cli.command_groups import ListUnlessNamed
from reconciler.cli.common import (
    DEFAULT_CONFIG,
    USAGE,
    ConfigOption,
    JsonOption,
    LimitOption,
    fail,
    out,
    print_json,
    project_name,
    read_config,
    shown,
)
from reconciler.cli.discarding import discard_dead_letters
from reconciler.cli.event_ids import EventArgument, EventsArgument, numbers
from reconciler.cli.filter_hints import filter_hints, print_no_match
from reconciler.cli.moments import FromOption, ToOption, time_range
from reconciler.cli.rendering import print_request
from reconciler.cli.replaying import RateOption, YesOption, replay_events
from reconciler.cli.tables import Listing
from reconciler.config.models import Config
from reconciler.forwarding.rendering import Rendered, Renderer
from reconciler.ledger.queue import deliveries
from reconciler.ledger.queue.replay import ReplayRequest
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import dead_letters
from reconciler.ledger.views.browse import Filter

app = typer.Typer(cls=ListUnlessNamed, no_args_is_help=False)

ProjectOption = Annotated[str | None, typer.Option(help="Only this project (ID or path).")]
KindOption = Annotated[str | None, typer.Option(help="Only events of this kind.")]
DestinationOption = Annotated[str | None, typer.Option(help="Only dead letters of this destination.")]
_SAY_WHICH = "say which dead letters: give IDs, --destination, --project, --kind, --from and --to, or --all"


@app.callback()
def main() -> None:
    """List, show, replay and discard dead letters: events that could not be delivered and are not retried.

    Without a subcommand, lists them. For its options see `dead-letters list --help`.
    """


@app.command("list")
def list_dead(
    config: ConfigOption = DEFAULT_CONFIG,
    destination: DestinationOption = None,
    project: ProjectOption = None,
    kind: KindOption = None,
    since: FromOption = None,
    until: ToOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest last. With --json, print one JSON object per line."""
    wanted = _filter(project, kind, since, until)
    with opened(read_config(config).ledger.location, readonly=True) as db:
        rows = dead_letters.dead_letters(db, wanted, destination=destination, limit=limit)
        if not rows:
            hints = filter_hints(db, wanted, destination=destination)
            print_no_match("No dead letter matches", hints, as_json=as_json)
            return
    if as_json:
        for row in rows:
            print_json(row)
        return
    listing = Listing(
        "id", "destination", "happened", "project", "kind", "action", "attempts", "dead since", "last error",
        right=("id", "attempts"), texts=("destination", "project", "last error"),
        spare=("action", "attempts", "happened"),
    )  # fmt: skip
    for row in rows:
        listing.add(
            str(row["id"]),
            row["destination"],
            shown(row["happened_at"]),
            row["project_path"] or "-",
            row["kind"],
            row["action"] or "-",
            str(row["attempts"]),
            shown(row["dead_since"]),
            row["last_error"] or "-",
        )
    out.print(listing)


@app.command()
def show(
    event: EventArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    destination: Annotated[
        str | None, typer.Option(help="The destination, if the event is a dead letter of several.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a dead letter: each attempt with its response, and the request as it would be sent now.

    Secrets in the request are redacted.
    """
    loaded = read_config(config)
    with opened(loaded.ledger.location, readonly=True) as db, Renderer(db, loaded) as renderer:
        [event_id] = numbers(db, [event])
        found = [
            row for row in dead_letters.dead_letters_of(db, event_id) if destination in (None, row["destination"])
        ]
        if not found:
            fail(f"event {event_id} is not a dead letter" + (f" of {destination}" if destination else ""))
        tried = dead_letters.attempts(db, event_id)
        shown_ = [_whole(db, loaded, renderer, row, tried) for row in found]
    if as_json:
        print_json(shown_)
        return
    for letter in shown_:
        _print(letter)


@app.command()
def replay(
    event_ids: EventsArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    destination: DestinationOption = None,
    project: ProjectOption = None,
    kind: KindOption = None,
    since: FromOption = None,
    until: ToOption = None,
    rate: RateOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deliver dead letters again: by ID, by filter, by time, or all. Shows the counts and asks first.

    `replay --dead-letters` does the same.
    """
    if not (event_ids or every or destination or project or kind or since or until):
        fail(_SAY_WHICH, USAGE)
    loaded = read_config(config)
    wanted = ReplayRequest(filter=_filter(project, kind, since, until), dead_letters_only=True)
    replay_events(
        loaded, config, wanted, event_ids or [], destination=destination, rate=rate, yes=yes, as_json=as_json
    )


@app.command()
def discard(
    event_ids: EventsArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    destination: DestinationOption = None,
    project: ProjectOption = None,
    kind: KindOption = None,
    since: FromOption = None,
    until: ToOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Mark dead letters as handled, without delivering them: by ID, by filter, by time, or all. Shows the counts and
    asks first.

    They are no dead letters any more. Their events stay as long as others do, and `replay` with an ID still delivers
    them.
    """
    if not (event_ids or every or destination or project or kind or since or until):
        fail(_SAY_WHICH, USAGE)
    loaded = read_config(config)
    wanted = ReplayRequest(filter=_filter(project, kind, since, until), dead_letters_only=True)
    discard_dead_letters(loaded, wanted, event_ids or [], destination=destination, yes=yes, as_json=as_json)


def _filter(project: str | None, kind: str | None, since: str | None, until: str | None) -> Filter:
    start, end = time_range(since, until)
    return Filter(project=project_name(project), kind=kind, since=start, until=end)


def _whole(
    db: Database, config: Config, renderer: Renderer, row: dict[str, Any], tried: list[dict[str, Any]]
) -> dict[str, Any]:
    destination = next((one for one in config.destinations if one.name == row["destination"]), None)
    request: Rendered | None = None
    if destination is not None:
        request = renderer.render(destination, deliveries.outgoing(db, row["id"]), attempt=row["attempts"] + 1)
    return row | {
        "attempts": [one for one in tried if one["destination"] == row["destination"]],
        "request": None if request is None else request.plain(),
    }


def _print(letter: dict[str, Any]) -> None:
    out.print(f"event {letter['id']} to {letter['destination']}", style="bold")
    out.print(f"{letter['kind']} {letter['action'] or ''} in {letter['project_path'] or '-'}")
    out.print(f"dead since {shown(letter['dead_since'])}: {letter['last_error']}")
    out.print("\nattempts", style="bold")
    listing = Listing("no.", "started", "ms", "status", "error", right=("no.", "ms"), texts=("error",))
    for one in letter["attempts"]:
        listing.add(
            str(one["number"]),
            shown(one["started_at"]),
            str(one["duration_ms"]),
            str(one["status"] or "-"),
            one["error_class"] or "-",
        )
    out.print(listing or "No attempts are kept.")
    for one in letter["attempts"]:
        if one["error"] or one["response"]:
            out.print(f"{one['number']}: {one['error'] or one['response']}")
    out.print("\nrequest", style="bold")
    request = letter["request"]
    if request is None:
        out.print("The destination is not in the config.")
        return
    print_request(Rendered(**request))
