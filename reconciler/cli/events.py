"""`events`: list, follow and show the events in the ledger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.highlighter import JSONHighlighter

from reconciler.cli.command_groups import ListUnlessNamed
from reconciler.cli.common import (
    DEFAULT_CONFIG,
    USAGE,
    ConfigOption,
    JsonOption,
    KindOption,
    LimitOption,
    ProjectOption,
    SourceOption,
    fail,
    line,
    out,
    print_json,
    project_name,
    read_config,
    shown,
)
from reconciler.cli.event_ids import EventArgument, numbers
from reconciler.cli.filter_hints import filter_hints, print_no_match
from reconciler.cli.moments import FromOption, ToOption, time_range
from reconciler.cli.tables import Listing
from reconciler.events.texts import pretty_json
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import browse, dead_letters
from reconciler.ledger.views.browse import Filter
from reconciler.location import Location

FOLLOW_S = 0.2


app = typer.Typer(cls=ListUnlessNamed, no_args_is_help=False)

_COLUMNS = ("id", "happened", "project", "kind", "action", "author", "title", "sources")


@app.callback()
def events() -> None:
    """List events (with `--follow` also new ones), or show one in full.

    Without a subcommand, lists them. For its options see `events list --help`.
    """


@app.command("list")
def list_events(
    config: ConfigOption = DEFAULT_CONFIG,
    project: ProjectOption = None,
    kind: KindOption = None,
    since: FromOption = None,
    until: ToOption = None,
    source: SourceOption = None,
    limit: LimitOption = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new events as they arrive.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List events, newest last. Times are UTC. With --json, print one JSON object per line."""
    if follow and until is not None:
        fail("--follow prints events as they arrive: --to can't be used with it", USAGE)
    start, end = time_range(since, until)
    wanted = Filter(project=project_name(project), kind=kind, since=start, until=end, source=source)
    with opened(_ledger(config), readonly=True) as db:
        last = browse.last_id(db)
        rows = [row for row in browse.newest(db, wanted, limit=limit) if row["id"] <= last]
        if not rows:
            print_no_match("No event matches", filter_hints(db, wanted), as_json=as_json or follow)
        elif as_json or follow:
            _print_lines(rows, as_json)
        else:
            _print_table(rows)
        if follow:
            _follow(db, wanted, last, as_json)


@app.command()
def show(
    event: EventArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show one event: its sightings, its deliveries and its payload."""
    with opened(_ledger(config), readonly=True) as db:
        [event_id] = numbers(db, [event])
        found = browse.show(db, event_id)
        tried = dead_letters.attempts(db, event_id)
    if found is None:
        fail(f"there is no event {event_id} in this ledger")
    payload = found.pop("payload")
    if as_json:
        print_json(found | {"attempts": tried}, payload=payload or "null")
        return
    if found["merged_into"]:
        out.print(f"Event {event_id} is the same as event {found['merged_into']}.")
    for name in ("id", "kind", "project_id", "happened_at", "recorded_at"):
        out.print(f"{name:12} {found[name]}")
    out.print("\nsightings", style="bold")
    sightings = Listing("source", "happened", "seen", texts=("source",))
    for row in found["sightings"]:
        sightings.add(row["source"], shown(row["happened_at"]), shown(row["seen_at"]))
    out.print(sightings)
    for row in found["sightings"]:
        line(f"{row['source']}: key {row['key']}, source id {row['source_id']}")
    for row in found["sightings"]:
        if row["recovery"]:
            out.print(_recovered(row))
    out.print("\ndeliveries", style="bold")
    deliveries = Listing("destination", "state", "attempts", "finished", "last status", right=("attempts",),
                         texts=("destination",))  # fmt: skip
    for row in found["deliveries"]:
        deliveries.add(
            row["destination"],
            row["state"],
            str(row["attempts"]),
            shown(row["finished_at"]),
            str(row["last_status"] or "-"),
        )
    out.print(deliveries or "none")
    for row in found["deliveries"]:
        if row["last_error"]:
            out.print(f"{row['destination']}: {row['last_error']}")
    out.print("\npayload", style="bold")
    out.print(JSONHighlighter()(out.render_str(pretty_json(payload or "null"))))


def _recovered(sighting: dict[str, Any]) -> str:
    """Where a payload came from that no webhook delivered."""
    recovery = sighting["recovery"]
    if recovery["by"] == "hook_log":
        fields = ", ".join(recovery["redacted"]) or "nothing"
        return f"{sighting['source']}: from GitLab's log of deliveries; redacted by GitLab: {fields}"
    fields = ", ".join(recovery["unknown"]) or "nothing"
    return f"{sighting['source']}: rebuilt as a webhook payload; unknown: {fields}"


def _ledger(config: Path) -> Location:
    return read_config(config).ledger.location


def _follow(db: Database, wanted: Filter, last: int, as_json: bool) -> None:
    version = None
    while True:
        if version != (version := db.version()):
            while rows := browse.after(db, wanted, event_id=last):
                last = rows[-1]["id"]
                _print_lines(rows, as_json)
        time.sleep(FOLLOW_S)


def _print_lines(rows: list[dict[str, Any]], as_json: bool) -> None:
    for row in rows:
        if as_json:
            print_json(row)
        else:
            line(*_cells(row))


def _print_table(rows: list[dict[str, Any]]) -> None:
    texts = ("project", "author", "title", "sources")
    listing = Listing(*_COLUMNS, right=("id",), texts=texts, spare=("author", "sources"))
    for row in rows:
        listing.add(*_cells(row))
    out.print(listing)


def _cells(row: dict[str, Any]) -> list[str]:
    project = row["project_path"] or row["project_id"] or "-"
    title = (row["title"] or row["ref"] or "-")[:60]
    return [
        str(row["id"]),
        shown(row["happened_at"]),
        str(project),
        row["kind"],
        row["action"] or "-",
        row["author"] or "-",
        title,
        row["sources"],
    ]
