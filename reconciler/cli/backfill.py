"""`backfill`: read a time range, or all gaps, from GitLab into the ledger."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import reduce
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from reconciler import logs
from reconciler.cli.common import (
    DEFAULT_CONFIG,
    FAILED,
    USAGE,
    ConfigOption,
    JsonOption,
    err,
    fail,
    out,
    print_json,
    project_name,
    read_config,
)
from reconciler.cli.grouping import grouped
from reconciler.cli.moments import moment
from reconciler.cli.tables import Listing
from reconciler.cli.unknown import print_unknown
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.moments import HOW
from reconciler.forwarding.filters import routes
from reconciler.forwarding.forwarder import as_spec
from reconciler.ledger.ledger import Ledger, open_beside
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.served import is_served
from reconciler.ledger.views.unknowns import Unknown, unknowns
from reconciler.polling import backfill as reading
from reconciler.polling.backfill import Backfill, ProjectReport, plain
from reconciler.polling.backfill_range import newest, pruned_within, readable
from reconciler.polling.counts import Counts
from reconciler.polling.knowledge import asked
from reconciler.polling.reconciling import reconciling
from reconciler.sources.source import Slice

_FIGURES = ("seen", "already known", "new", "requests")


def backfill(
    since: Annotated[str | None, typer.Option("--from", help=f"Start date (included) or time (UTC): {HOW}.")] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="End date (included) or time.", show_default="now")
    ] = None,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Read every gap that can still be closed, instead of a time range.")
    ] = False,
    project: Annotated[
        list[str] | None, typer.Option("--project", help="Only this project (ID or path). Repeatable.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read from GitLab and count, but record nothing.")
    ] = False,
    no_forward: Annotated[
        bool, typer.Option("--no-forward", help="Record new events, but do not deliver them.")
    ] = False,
    no_details: Annotated[
        bool,
        typer.Option(
            "--no-details", help="Rebuild payloads from list records alone: fewer requests and fewer fields."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read the events of a time range from GitLab's API into the ledger.

    Safe to interrupt and to repeat: what was read completely is not read again. A running service delivers new
    events at once; otherwise they are delivered at its next start.
    """
    loaded = read_config(config)
    names = [name for text in project or [] if (name := project_name(text)) is not None]
    if not names and not loaded.projects and not loaded.groups:
        fail("no projects: give them with --project or in the config", USAGE)
    if loaded.gitlab.token is None:
        fail(f"{config}: gitlab.token: is required to read from GitLab (scope read_api)", USAGE)
    if gaps == (since is not None) or (gaps and until is not None):
        fail("give a time range with --from (and --to), or --gaps", USAGE)
    window = None if since is None else _window(since, until, loaded)
    if window is not None and not (no_forward or dry_run):
        _not_pruned(loaded, window)
    logs.set_up("warning")
    try:
        reports, groups = asyncio.run(
            _backfill(loaded, names, window, dry_run=dry_run, no_forward=no_forward, details=not no_details)
        )
    except KeyboardInterrupt:
        fail("interrupted: what was read is kept; run the same command again to continue")
    with opened(loaded.ledger.location, readonly=True) as db:
        now = times.now()
        unknown = unknowns(db, asked(loaded, now), now=now)
    _print(reports, groups, unknown, window, dry_run=dry_run, as_json=as_json)
    if groups or any(report.error for report in reports):
        raise typer.Exit(FAILED)


def _window(since: str, until: str | None, config: Config) -> Interval:
    """The requested range, without the last seconds and without the time before GitLab keeps events."""
    grace_period = config.reconcile.grace_period
    start, end = moment(since), moment(until, end_of_day=True) or newest(grace_period)
    if start is None or start >= end:
        fail("--from must be before --to", USAGE)
    try:
        found = readable(start, end, grace_period=grace_period)
    except ValueError as error:
        fail(str(error))
    if found.oldest is not None:
        err.print(
            f"GitLab keeps events for 3 years: before {times.iso(found.oldest)[:10]} nothing can be read.",
            style="yellow",
        )
    return found.window


def _not_pruned(config: Config, window: Interval) -> None:
    """Refuse a range with pruned events: they would be recorded as new and delivered again."""
    if (pruned := pruned_within(config.ledger.location, window)) is not None:
        fail(
            f"events up to {times.iso(pruned)} were pruned: they would be recorded as new and delivered again. "
            "Start later, or use --no-forward and then `replay --from … --to …` for those to deliver.",
            USAGE,
        )


async def _backfill(
    config: Config,
    names: list[int | str],
    window: Interval | None,
    *,
    dry_run: bool,
    no_forward: bool,
    details: bool,
) -> tuple[list[ProjectReport], dict[str, str]]:
    """A report for each project, and the error for each group that could not be read."""
    if window is not None:
        err.print(f"Reading {times.iso(window.start)} to {times.iso(window.end)} (UTC).")
    async with open_beside(config.ledger.location) as ledger:
        if not no_forward and not dry_run:
            ledger.set_routes(await _routes(config, ledger))
        polling = reconciling(config, ledger=ledger, details=details)
        work = Backfill(polling, config.reconcile, ledger=ledger, dry_run=dry_run)
        try:
            if not names:
                await polling.projects.refresh_groups()
            with _progress() as progress:
                show = _shower(progress)
                reports = await asyncio.gather(
                    *(work.project(name, window, show) for name in names or polling.projects.names)
                )
                unread = {} if names else polling.projects.unread
                return reports, {str(group): str(error) for group, error in unread.items()}
        finally:
            polling.stop()


async def _routes(config: Config, ledger: Ledger) -> list[Route]:
    """Where new events are delivered. Only `serve` activates destinations; before its first run there are none, and
    they are added as it would.
    """
    served = is_served(config.ledger.location)
    wanted = [] if served else [as_spec(one) for one in config.destinations]
    ids = await ledger.queue.add_destinations(wanted)
    for one in config.destinations:
        if one.name not in ids:
            why = "it is not active in the ledger; `serve` or `reload` activates it"
            err.print(f"destination {one.name}: receives none of these events: {why}", style="yellow")
    return routes(config.destinations, ids)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  seen {task.fields[seen]:,}  new {task.fields[new]:,}"),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


def _shower(progress: Progress) -> Callable[[str, int], reading.Progress]:
    """A progress bar for each project on a terminal, else a line for each part that was read."""

    def begin(name: str, length: int) -> reading.Progress:
        task = progress.add_task(name, total=length, seen=0, new=0)

        def show(source: str, part: Slice, report: ProjectReport) -> None:
            read = 0 if part.covered is None else part.covered.end - part.covered.start
            progress.update(task, advance=read, seen=report.counts.seen, new=report.counts.new)
            if progress.disable and part.covered is not None:
                through, counts = times.iso(part.covered.end), report.sources[source]
                line = f"{name}: {source} read through {through}, of which seen {counts.seen}, new {counts.new}"
                print(line, file=sys.stderr, flush=True)

        return show

    return begin


def _print(
    reports: list[ProjectReport],
    groups: dict[str, str],
    unknown: list[Unknown],
    window: Interval | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    if as_json:
        print_json(
            {
                "unknown": msgspec.to_builtins(unknown),
                "from": None if window is None else times.iso(window.start),
                "to": None if window is None else times.iso(window.end),
                "dry_run": dry_run,
                "groups_not_read": groups,
                "projects": [plain(report) for report in reports],
            }
        )
        return
    print_unknown(unknown, to=err)
    for words in grouped((group, f"none of its projects was read: {why}") for group, why in groups.items()):
        err.print(words, style="red")
    _print_counts(reports)
    skipped = (
        (one.project, f"{source} was not read: {why}") for one in reports for source, why in one.skipped.items()
    )
    unreadable = (
        (one.project, f"{one.counts.unreadable:,} records could not be understood: `status` lists them")
        for one in reports
        if one.counts.unreadable
    )
    for words in grouped([*skipped, *unreadable]):
        err.print(words, style="yellow")
    for words in grouped((one.project, one.error) for one in reports if one.error):
        err.print(words, style="red")
    done = [
        (one.project, "everything was already read.")
        for one in reports
        if not (one.sources or one.skipped or one.error)
    ]
    for words in grouped(done):
        out.print(words)
    if dry_run:
        out.print("Dry run: nothing was recorded.")


def _print_counts(reports: list[ProjectReport]) -> None:
    """A row for each source of each project, and a total."""
    listing = Listing("project", "source", *_FIGURES, right=_FIGURES, texts=("project", "source"))
    rows = [(one.project, source, counts) for one in reports for source, counts in one.sources.items()]
    if len(rows) > 1:
        rows.append(("all", "", reduce(Counts.plus, (counts for _, _, counts in rows))))
    for project, source, counts in rows:
        figures = (counts.seen, counts.known, counts.new, counts.requests)
        listing.add(project, source, *(f"{figure:,}" for figure in figures))
    if listing:
        out.print(listing)
