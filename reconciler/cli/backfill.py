"""`backfill`: read a range of the past into the ledger."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
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
    moment,
    out,
    print_json,
    project_name,
    read_config,
    table,
)
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.ledger import coverage, queue
from reconciler.ledger.connection import connect
from reconciler.ledger.coverage import Interval
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.writer import Writer
from reconciler.reconcile import Reconciler, Tally
from reconciler.sources.client import Client
from reconciler.sources.errors import SourceError
from reconciler.sources.project_events import ProjectEvents
from reconciler.sources.source import Slice

_FIGURES = ("seen", "already known", "new", "requests")


class Report(msgspec.Struct, frozen=True):
    """What became of one project."""

    project: str
    seen: int
    already_known: int
    new: int
    requests: int
    error: str | None = None


def backfill(
    since: Annotated[str, typer.Option("--from", help="First day (included), or a time; UTC.")],
    until: Annotated[
        str | None, typer.Option("--to", help="Last day (included), or a time.", show_default="now")
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option("--project", help="Only this project: id or path. May stand several times.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask GitLab and count; record nothing.")] = False,
    no_forward: Annotated[
        bool, typer.Option("--no-forward", help="Record, but do not send what is new to the destinations.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read what happened in a range of time from GitLab's API into the ledger.

    Safe to interrupt and to run again: what was read completely is not read again. A running service forwards
    what is new at once; otherwise it goes out at the next start.
    """
    loaded = read_config(config)
    names = [project_name(name) for name in project or []] or list(loaded.projects)
    if not names:
        fail("no projects: name them with --project or in the config", USAGE)
    if loaded.gitlab.token is None:
        fail(f"{config}: gitlab.token: is needed to ask GitLab (scope read_api)", USAGE)
    window = _window(since, until, loaded)
    logs.set_up("warning")
    try:
        reports = asyncio.run(
            _backfill(loaded, [n for n in names if n is not None], window, dry_run=dry_run, no_forward=no_forward)
        )
    except KeyboardInterrupt:
        fail("interrupted: what was read stays; run the same command again to go on")
    _print(reports, window, dry_run=dry_run, as_json=as_json)
    if any(report.error for report in reports):
        raise typer.Exit(FAILED)


def _window(since: str, until: str | None, config: Config) -> Interval:
    """The range that is asked for, within what there can be: not the last seconds, not before GitLab's memory."""
    newest = times.now() - config.reconcile.settle
    start, end = moment(since), moment(until, end_of_day=True) or newest
    if start is None or start >= end:
        fail("--from must be before --to", USAGE)
    oldest = times.now() - ProjectEvents.keeps_for
    if start < oldest:
        err.print(
            f"GitLab keeps events for 3 years: before {times.iso(oldest)[:10]} nothing can be read.",
            style="yellow",
            highlight=False,
        )
    window = Interval(max(start, oldest), min(end, newest))
    if window.start >= window.end:
        fail("nothing in this range can be read: it is too old, or still to come")
    return window


async def _backfill(
    config: Config, names: list[int | str], window: Interval, *, dry_run: bool, no_forward: bool
) -> list[Report]:
    err.print(f"Reading {times.iso(window.start)} to {times.iso(window.end)} (UTC).", highlight=False)
    with ExitStack() as stack:
        db = stack.enter_context(closing(connect(config.ledger.path)))
        reader = stack.enter_context(closing(connect(config.ledger.path, readonly=True)))
        writer = Writer(db, forward=not no_forward)
        wanted = [(destination.name, destination.ordering) for destination in config.destinations]
        if not no_forward and not dry_run:
            await writer.run(lambda db: queue.sync_destinations(db, wanted))
        client = Client(config.gitlab)
        source = ProjectEvents(client)
        reconciler = Reconciler(config.reconcile, client=client, source=source, db=reader, writer=writer)

        async def one(name: int | str, progress: Progress) -> Report:
            tally, shown_as, error = Tally(), str(name), None
            try:
                project = await reconciler.project(name)
                shown_as = project.path or shown_as
                read_before = [] if dry_run else coverage.covered(reader, project.id, source.name)
                reachable = Interval(window.start, min(window.end, reconciler.newest()))
                show = _shower(progress, shown_as, window)
                for gap in coverage.gaps(read_before, reachable):
                    part = await reconciler.read(
                        project, gap, purpose="backfill", progress=show(tally), dry_run=dry_run
                    )
                    tally = tally.plus(part)
            except (SourceError, LedgerError) as failure:
                error = str(failure)
            return Report(shown_as, tally.seen, tally.known, tally.new, tally.requests, error)

        with _progress() as progress:
            try:
                return await asyncio.gather(*(one(name, progress) for name in names))
            finally:
                reconciler.stop()
                await writer.close()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  seen {task.fields[seen]:,}  new {task.fields[new]:,}"),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


def _shower(progress: Progress, name: str, window: Interval) -> Callable[[Tally], Callable[[Slice, Tally], None]]:
    """A bar on a terminal, a line for each slice elsewhere."""
    task = progress.add_task(name, total=window.end - window.start, seen=0, new=0)

    def from_here(before: Tally) -> Callable[[Slice, Tally], None]:
        def show(part: Slice, tally: Tally) -> None:
            seen, new = before.seen + tally.seen, before.new + tally.new
            progress.update(task, completed=part.covered.end - window.start, seen=seen, new=new)
            if progress.disable:
                through = times.iso(part.covered.end)
                print(f"{name}: read through {through}, seen {seen}, new {new}", file=sys.stderr, flush=True)

        return show

    return from_here


def _print(reports: list[Report], window: Interval, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "from": times.iso(window.start),
                "to": times.iso(window.end),
                "dry_run": dry_run,
                "projects": [msgspec.structs.asdict(report) for report in reports],
            }
        )
        return
    listing = table("project", *_FIGURES, right=_FIGURES)
    for report in reports:
        figures = (report.seen, report.already_known, report.new, report.requests)
        listing.add_row(report.project, *(f"{figure:,}" for figure in figures))
    out.print(listing, highlight=False)
    for report in reports:
        if report.error:
            err.print(f"{report.project}: {report.error}", style="red", highlight=False, markup=False)
        elif report.requests == 0:
            out.print(f"{report.project}: all of it was read before.", highlight=False, markup=False)
    if dry_run:
        out.print("Dry run: nothing was recorded.", highlight=False)
