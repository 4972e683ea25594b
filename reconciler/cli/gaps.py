"""`gaps`: which time is covered, where the gaps are, why, and until when they can be closed."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
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
from reconciler.ledger.coverage import intervals, runs
from reconciler.ledger.coverage.gaps import Gap
from reconciler.ledger.coverage.intervals import CoveredInterval
from reconciler.ledger.storage.connection import opened
from reconciler.ledger.views.unknowns import Known
from reconciler.polling.knowledge import look


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
        complete = [_covered(one) for one in intervals.covered_intervals(db)]
        paths = {ident: path for path, ident in runs.project_paths(db).items()}
    if as_json:
        unknown = [msgspec.to_builtins(one) for one in known.unknowns]
        plain = [_plain(gap, paths) for gap in known.gaps]
        switched_off = [
            {"project_id": one, "project": paths.get(one), "sources": some}
            for one, some in known.switched_off.items()
        ]
        print_json({"unknown": unknown, "complete": complete, "gaps": plain, "switched_off": switched_off})
    else:
        print_unknown(known.unknowns)
        _print(complete, known, paths)
    if exit_code and (known.gaps or known.unknowns):
        raise typer.Exit(FAILED)


def _covered(one: CoveredInterval) -> dict[str, Any]:
    return {
        "project_id": one.project_id,
        "project": one.project,
        "source": one.source,
        "from": one.start,
        "through": one.through,
    }


def _plain(gap: Gap, paths: dict[int, str]) -> dict[str, Any]:
    return {
        "project_id": gap.project_id,
        "project": paths.get(gap.project_id),
        "source": gap.source,
        "from": times.iso(gap.during.start),
        "to": times.iso(gap.during.end),
        "why": gap.why,
        "error": gap.error,
        "closable_until": None if gap.closable_until is None else times.iso(gap.closable_until),
        "final": gap.is_final,
    }


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
