"""`export`: writes events of the ledger to a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from reconciler.cli.common import (
    DEFAULT_CONFIG,
    USAGE,
    ConfigOption,
    JsonOption,
    KindOption,
    ProjectOption,
    SourceOption,
    err,
    fail,
    out,
    print_json,
    project_name,
    read_config,
)
from reconciler.cli.export_formats import FORMATS, Format, format_for
from reconciler.cli.export_output import output
from reconciler.cli.filter_hints import filter_hints
from reconciler.cli.moments import FromOption, ToOption, time_range
from reconciler.cli.occupied import config_for
from reconciler.cli.unknown import print_unknown
from reconciler.events import times
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.storage.database import Database
from reconciler.ledger.views import export as reading
from reconciler.ledger.views.browse import Filter
from reconciler.ledger.views.unknowns import unknowns
from reconciler.polling.knowledge import asked

Report = Callable[[float, int], None]


def export(
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="What to write: ndjson, csv or parquet. Default: what the file's name ends in, else ndjson.",
        ),
    ] = None,
    since: FromOption = None,
    until: ToOption = None,
    project: ProjectOption = None,
    kind: KindOption = None,
    source: SourceOption = None,
    to: Annotated[Path, typer.Option("--output", "-o", help="Write to this file; `-` is stdout.")] = Path("-"),
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Write events to a file or to stdout, in the order in which they were recorded. Safe while `serve` is running.

    It has the events that are in the ledger when it begins, each as destinations get it. A file is replaced when
    its new content is complete; if the export fails or is interrupted, it stays as it was. With --json, print a
    summary.
    """
    target = None if to == Path("-") else to
    if target is None and as_json:
        fail("--json prints a summary on stdout, where the events go: give a file with --output", USAGE)
    form = format_for(format_, target)
    if target is None and form == "parquet" and sys.stdout.isatty():
        fail("Parquet is not for a terminal: give a file with --output", USAGE)
    start, end = time_range(since, until)
    wanted = Filter(project=project_name(project), kind=kind, since=start, until=end, source=source)
    loaded = read_config(config) if target is None else config_for(target, config)
    with opened(loaded.ledger.location, readonly=True) as db:
        now = times.now()
        unknown = unknowns(db, asked(loaded, now), now=now)
        if not as_json:
            print_unknown(unknown, to=err)
        with output(target) as file:
            count = _write(db, wanted, file, form)
        hints = [] if count else filter_hints(db, wanted)
    if as_json:
        print_json(_summary(wanted, target, form, count, msgspec.to_builtins(unknown)))
    else:
        where = "" if target is None else f" to {target}"
        (err if target is None else out).print(f"Exported {_events(count)}{where}.")
    for note in hints:
        err.print(note)


def _write(db: Database, wanted: Filter, file: BinaryIO, format_: Format) -> int:
    """Write all events; how many there are."""
    writer = FORMATS[format_](file)
    count = 0
    try:
        with _progress(shown=not file.isatty()) as report:
            for part in reading.parts(db, wanted):
                writer.write(part.events)
                count += len(part.events)
                report(part.passed, count)
            writer.finish()
            if count:
                report(1.0, count)
    except BaseException:
        writer.abandon()
        raise
    return count


@contextmanager
def _progress(*, shown: bool) -> Iterator[Report]:
    """A bar on a terminal, elsewhere a line for each tenth; nothing where events are printed on the terminal."""
    columns = (
        TextColumn("exporting"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[events]:,} events"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=err, disable=not (shown and err.is_terminal)) as bar:
        task, tenths = bar.add_task("exporting", total=1.0, events=0), 0

        def report(passed: float, events: int) -> None:
            nonlocal tenths
            bar.update(task, completed=passed, events=events)
            if shown and not err.is_terminal and int(10 * passed) > tenths:
                tenths = int(10 * passed)
                print(f"exported {10 * tenths}%: {_events(events)}", file=sys.stderr, flush=True)

        yield report


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def _summary(wanted: Filter, target: Path | None, format_: Format, count: int, unknown: Any) -> dict[str, Any]:
    return {
        "unknown": unknown,
        "from": None if wanted.since is None else times.iso(wanted.since),
        "to": None if wanted.until is None else times.iso(wanted.until),
        "format": format_,
        "output": str(target),
        "events": count,
    }
