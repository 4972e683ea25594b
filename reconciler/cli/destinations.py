"""`destinations`: list destinations, preview what they receive, pause, resume and remove them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from reconciler.cli.command_groups import ListUnlessNamed
from reconciler.cli.common import (
    DEFAULT_CONFIG,
    USAGE,
    ConfigOption,
    JsonOption,
    err,
    fail,
    out,
    positive,
    print_json,
    read_config,
    shown,
)
from reconciler.cli.event_ids import EventArgument, numbers
from reconciler.cli.moments import FromOption, ToOption, time_range
from reconciler.cli.rendering import print_request
from reconciler.cli.replaying import YesOption
from reconciler.cli.tables import Listing
from reconciler.cli.trial import send_trial
from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.forwarding.filters import conditions
from reconciler.forwarding.listing import destination_rows
from reconciler.forwarding.rendering import Rendered, Renderer
from reconciler.ledger import beside
from reconciler.ledger.queue import deliveries, destinations
from reconciler.ledger.queue.destinations import DestinationState
from reconciler.ledger.queue.opening import candidates_of
from reconciler.ledger.queue.routes import Candidate, Undecided
from reconciler.ledger.storage.connection import opened, there_is
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import browse, status
from reconciler.ledger.views.browse import Filter

app = typer.Typer(cls=ListUnlessNamed, no_args_is_help=False)

NameArgument = Annotated[str, typer.Argument(help="Name of the destination.")]


@app.callback()
def main() -> None:
    """List destinations, preview what they receive, pause, resume and remove them.

    Without a subcommand, lists them. To add or change one, edit the config and run `reload`.
    """


@app.command("list")
def list_destinations(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List destinations with their state, pending events and dead letters."""
    loaded = read_config(config)
    known: list[status.DestinationStatus] = []
    if there_is(loaded.ledger.location):
        with opened(loaded.ledger.location, readonly=True) as db:
            known = status.destination_statuses(db)
    rows = destination_rows(loaded, known)
    if as_json:
        print_json(rows)
        return
    listing = Listing("name", "kind", "type", "to", "state", "pending", "dead letters",
                      right=("pending", "dead letters"), texts=("name", "to", "state"), spare=("type",))  # fmt: skip
    for row in rows:
        listing.add(*(str("-" if row[key] is None else row[key]) for key in
                          ("name", "kind", "type", "to", "state", "pending", "dead_letters")))  # fmt: skip
    out.print(listing or "No destination is configured.")


@app.command()
def test(
    name: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    since: FromOption = None,
    until: ToOption = None,
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", parser=positive, help="Look at this many events at most, the newest ones."),
    ] = 20,
    bodies: Annotated[bool, typer.Option("--bodies", help="Print what would be sent: headers and body.")] = False,
    send: Annotated[
        bool, typer.Option("--send", help="Send one test event, marked as such, and print the response.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which recorded events would be sent to this destination with its current config, and what would be sent.

    Nothing is sent or changed. With --send, one test event is sent once, regardless of the filter: its ID begins with
    `test_`, its kind is `reconciler_test`, and it is not recorded in the ledger. Exits with 1 if it is not accepted.
    """
    loaded = read_config(config)
    destination = _configured(loaded, name, config)
    if send:
        if since or until:
            fail("--send sends its own test event: --from and --to can't be used with it", USAGE)
        send_trial(loaded, destination, bodies=bodies, as_json=as_json)
        return
    start, end = time_range(since, until)
    with opened(loaded.ledger.location, readonly=True) as db, Renderer(db, loaded) as renderer:
        wanted = Filter(since=start, until=end)
        events = browse.newest(db, wanted, limit=limit)
        results = [_try(db, renderer, destination, event, bodies=bodies or as_json) for event in events]
    if as_json:
        print_json(results)
        return
    listing = Listing("id", "happened", "project", "kind", "action", "ref", "sent", right=("id",),
                      texts=("project", "ref", "sent"), spare=("action", "ref"))  # fmt: skip
    for result in results:
        answer = "yes" if result["sent"] else f"no: {result['why']}"
        listing.add(str(result["id"]), shown(result["happened_at"]), result["project"] or "-", result["kind"],
                        result["action"] or "-", result["ref"] or "-", answer)  # fmt: skip
    out.print(listing or "No events in this time range.")
    for result in results:
        if result.get("request") and bodies:
            out.print(f"\nevent {result['id']} to {result['request']['to']}", style="bold")
            print_request(Rendered(**result["request"]))
    sent = sum(result["sent"] for result in results)
    out.print(f"\n{sent} of {len(results)} would be sent.")


@app.command()
def pause(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Pause a destination until it is resumed, even after a restart. New events are kept for it."""
    with _destination(config, name) as (db, one):
        beside.pause(db, one.id, now=times.now())
    out.print(f"{name} is paused. New events are kept for it.")


@app.command()
def resume(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Resume a paused destination, starting with its pending events."""
    with _destination(config, name) as (db, one):
        beside.resume(db, one.id)
    out.print(f"{name} is resumed.")


@app.command()
def skip(
    name: NameArgument,
    event: EventArgument,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Skip an event that a destination does not accept. It becomes a dead letter, and the events behind it continue.

    `status` names the event that blocks others. `dead-letters replay` delivers the skipped event later.
    """
    event_id = event.number
    with _destination(config, name) as (db, one):
        numbers(db, [event])
        done = beside.skip(db, one.id, event_id, now=times.now())
    if not done:
        fail(f"event {event_id} is not pending for {name}: `status` names the event that blocks others")
    out.print(f"Event {event_id} is now a dead letter: `dead-letters replay {event_id}` delivers it again.")


@app.command()
def remove(
    name: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
) -> None:
    """Remove a destination that is no longer in the config, with its pending events and dead letters. Asks first.

    To stop delivering to a destination, take it out of the config and run `reload`. Until you remove it here, it
    keeps its pending events and continues with them if it is added again.
    """
    loaded = read_config(config)
    if name in [one.name for one in loaded.destinations]:
        fail(f"{name} is in {config}: take it out and run `reload` first", USAGE)
    with opened(loaded.ledger.location) as db:
        one = _known(db, name)
        if one.active:
            fail(f"{name} is not in {config}, but the service still delivers to it: run `reload` first")
        counts = next(s for s in status.destination_statuses(db) if s.name == name)
        err.print(
            f"{name} has {counts.pending:,} pending events and {counts.dead_letters:,} dead letters. "
            "They are removed with it; the events themselves are kept.",
        )
        if not yes and not typer.confirm("Remove it?", err=True):
            fail("nothing was changed")
        beside.remove(db, one.id)
    out.print(f"{name} is removed.")


@contextmanager
def _destination(config: Path, name: str) -> Iterator[tuple[Database, DestinationState]]:
    """The ledger, open for writing, and one of its destinations."""
    loaded = read_config(config)
    if not there_is(loaded.ledger.location):
        fail(f"{loaded.ledger.location}: there is no ledger yet")
    with opened(loaded.ledger.location) as db:
        yield db, _known(db, name)


def _known(db: Database, name: str) -> DestinationState:
    found = next((one for one in destinations.destination_states(db) if one.name == name), None)
    if found is None:
        fail(f"the ledger knows no destination {name!r}: `serve` and `reload` add those in the config")
    return found


def _configured(config: Config, name: str, file: Path) -> Destination:
    found = next((one for one in config.destinations if one.name == name), None)
    if found is None:
        fail(f"no destination named {name!r} in {file}", USAGE)
    return found


def _try(
    db: Database, renderer: Renderer, destination: Destination, event: dict[str, Any], *, bodies: bool
) -> dict[str, Any]:
    """Whether an event would be sent; why not; and what, where asked."""
    outgoing = deliveries.outgoing(db, event["id"])
    _, candidate = next(candidates_of(db, [outgoing.sighting_id]))
    why = _refusal(destination, candidate)
    found = {
        "id": event["id"],
        "happened_at": event["happened_at"],
        "project": event["project_path"],
        "kind": event["kind"],
        "action": event["action"],
        "ref": event["ref"],
        "sent": why is None,
        "why": why,
    }
    if why is None:
        rendered = renderer.render(destination, outgoing, attempt=1)
        if rendered.error is not None:
            return found | {"sent": False, "why": f"dead letter: {rendered.error}"}
        if bodies:
            found["request"] = rendered.plain()
    return found


def _refusal(destination: Destination, candidate: Candidate) -> str | None:
    for name, accepts in conditions(destination):
        try:
            if not accepts(candidate):
                return name
        except Undecided as error:
            return f"dead letter: {name}: {error}"
    return None
