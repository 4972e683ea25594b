"""`status`: how things stand."""

from __future__ import annotations

from contextlib import closing

import msgspec

from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, out, print_json, read_config, shown, table
from reconciler.events import times
from reconciler.ledger.connection import connect
from reconciler.ledger.status import Gap, ProjectStatus, Status
from reconciler.ledger.status import status as read_status
from reconciler.sources.project_events import ProjectEvents


def status(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Per project: last webhook, last poll, covered through, gaps. Per destination: what it is owed."""
    loaded = read_config(config)
    expected = times.now() - loaded.reconcile.settle - 2 * loaded.reconcile.interval
    with closing(connect(loaded.ledger.path, readonly=True)) as db:
        found = read_status(db, source=ProjectEvents.name, expected=expected)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        _print(found)


def _print(found: Status) -> None:
    out.print(f"{found.events:,} events. Times are UTC.\n", highlight=False)
    projects = table("project", "last webhook", "last poll", "covered through", "gaps")
    for project in found.projects:
        projects.add_row(
            project.path or str(project.id),
            shown(project.last_webhook_at),
            shown(project.last_poll_at),
            shown(project.covered_through),
            _gaps(project),
        )
    out.print(projects if found.projects else "No project has been heard of yet.", highlight=False)
    out.print()
    destinations = table("destination", "pending", "oldest", "dead", "last error", right=("pending", "dead"))
    for destination in found.destinations:
        destinations.add_row(
            destination.name + ("" if destination.active else " (not in the config)"),
            f"{destination.pending:,}",
            shown(destination.oldest_pending_at),
            f"{destination.dead:,}",
            (destination.last_error or "-").splitlines()[0][:100],
        )
    out.print(destinations if found.destinations else "No destination is configured.", highlight=False, markup=False)


def _gaps(project: ProjectStatus) -> str:
    notes = [_gap(gap) for gap in project.gaps]
    if project.last_poll_error:
        notes.append("last poll failed: " + project.last_poll_error)
    if project.last_poll_at is None:
        notes.append("never polled")
    return "; ".join(notes) or "none"


def _gap(gap: Gap) -> str:
    return f"{shown(gap.start)} to {shown(gap.end)}"
