"""`gaps`: which time is covered, where the gaps are, why, and until when they can be closed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from reconciler.cli.common import (
    DEFAULT_CONFIG,
    FAILED,
    ConfigOption,
    JsonOption,
    out,
    print_json,
    read_config,
    shown,
)
from reconciler.cli.grouping import grouped
from reconciler.cli.tables import Listing
from reconciler.cli.unknown import print_unknown
from reconciler.events import times
from reconciler.ledger.coverage.gaps import Gap
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.views.unknowns import Known
from reconciler.polling.knowledge import look
from reconciler.polling.reports import complete_report, gap_report, project_paths, unknown_report


def gaps(
    config: ConfigOption = DEFAULT_CONFIG,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Exit with 1 if there is a gap or anything unknown."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is unknown and, for each project and source, which time is covered and every gap.

    At each poll of a project, the service tries to close the gaps that can still be closed. `backfill --gaps` tries
    it now.
    """
    loaded = read_config(config)
    with opened(loaded.ledger.location, readonly=True) as db:
        known = look(db, loaded, times.now())
        paths = project_paths(db)
        complete = complete_report(db)
    if as_json:
        print_json(unknown_report(known) | {"complete": complete} | gap_report(known, paths))
    else:
        print_unknown(known.unknowns)
        _print(complete, known, paths)
    if exit_code and (known.gaps or known.unknowns):
        raise typer.Exit(FAILED)


def _print(complete: list[dict[str, Any]], known: Known, paths: dict[int, str]) -> None:
    out.print("Covered (times are UTC):\n")
    listing = Listing("project", "source", "from", "through", texts=("project",))
    for row in complete:
        name = row["project"] or str(row["project_id"])
        listing.add(name, row["source"], shown(row["from"]), shown(row["through"]))
    out.print(listing or "Nothing yet.")
    out.print()
    for project_id, sources in known.switched_off.items():
        where = paths.get(project_id, str(project_id))
        out.print(f"{where}: {', '.join(sources)}: switched off in the project: no gap since then")
    if known.switched_off:
        out.print()
    if not known.gaps:
        out.print("No gaps in what was read." if known.unknowns else "No gaps.")
        return
    out.print("Gaps:\n")
    listing = Listing("project", "source", "from", "to", "why", "can be closed until",
                      texts=("project", "why"), spare=("can be closed until",))  # fmt: skip
    for gap in known.gaps:
        until = "-" if gap.closable_until is None else shown(times.iso(gap.closable_until))
        listing.add(
            _name(gap, paths),
            gap.source,
            shown(times.iso(gap.during.start)),
            shown(times.iso(gap.during.end)),
            gap.why,
            until,
        )
    out.print(listing)
    troubles = {(_name(gap, paths), gap.error) for gap in known.gaps if gap.error}
    for words in grouped((name, error.removeprefix(f"{name}: ")) for name, error in sorted(troubles)):
        out.print(words)


def _name(gap: Gap, paths: dict[int, str]) -> str:
    return paths.get(gap.project_id, str(gap.project_id))
