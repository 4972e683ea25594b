"""`gaps`: what is not known to be complete, why, and until when that can be mended."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer
from sqlite_utils import Database

from reconciler.cli.common import (
    DEFAULT_CONFIG,
    FAILED,
    ConfigOption,
    JsonOption,
    out,
    print_json,
    read_config,
    shown,
    table,
)
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.ledger import coverage, runs, standing
from reconciler.ledger.connection import connect
from reconciler.ledger.gaps import Gap
from reconciler.ledger.gaps import gaps as find_gaps
from reconciler.reconcile.rounds import expected
from reconciler.sources.table import keeps


def gaps(
    config: ConfigOption = DEFAULT_CONFIG,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 where there is a gap: for scripts.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Per project and source: from when to when the ledger is complete, and every gap.

    A gap that can still be closed is closed by the next poll of the service, or by `backfill --gaps`.
    """
    loaded = read_config(config)
    with closing(connect(loaded.ledger.path, readonly=True)) as db:
        found = open_gaps(db, loaded)
        complete = _complete(db)
        paths = {ident: path for path, ident in runs.project_paths(db).items()}
    if as_json:
        print_json({"complete": complete, "gaps": [_plain(gap, paths) for gap in found]})
    else:
        _print(complete, found, paths)
    if exit_code and found:
        raise typer.Exit(FAILED)


def open_gaps(db: Database, config: Config) -> list[Gap]:
    """All gaps, up to when a service that polls as it should has read everything."""
    now = times.now()
    return find_gaps(db, keeps=keeps(), expected=expected(config, now), now=now)


def _complete(db: Database) -> list[dict[str, Any]]:
    paths = {ident: path for path, ident in runs.project_paths(db).items()}
    found = []
    for source in standing.standings(db):
        for stretch in coverage.covered(db, source.project_id, source.source):
            found.append(
                {
                    "project_id": source.project_id,
                    "project": paths.get(source.project_id),
                    "source": source.source,
                    "from": times.iso(stretch.start),
                    "through": times.iso(stretch.end),
                }
            )
    return found


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


def _print(complete: list[dict[str, Any]], found: list[Gap], paths: dict[int, str]) -> None:
    out.print("Complete (times are UTC):\n", highlight=False)
    listing = table("project", "source", "from", "through")
    for row in complete:
        name = row["project"] or str(row["project_id"])
        listing.add_row(name, row["source"], shown(row["from"]), shown(row["through"]))
    out.print(listing if complete else "Nothing yet.", highlight=False)
    out.print()
    if not found:
        out.print("No gaps.", highlight=False)
        return
    out.print("Gaps:\n", highlight=False)
    listing = table("project", "source", "from", "to", "why", "can be closed until")
    for gap in found:
        until = "-" if gap.closable_until is None else shown(times.iso(gap.closable_until))
        listing.add_row(
            paths.get(gap.project_id, str(gap.project_id)),
            gap.source,
            shown(times.iso(gap.during.start)),
            shown(times.iso(gap.during.end)),
            gap.why,
            until,
        )
    out.print(listing, highlight=False)
    for error in dict.fromkeys(gap.error for gap in found if gap.error):
        out.print(error, highlight=False, markup=False)
