"""`status`: an overview of projects and destinations."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, out, print_json, read_config, shown
from reconciler.cli.grouping import grouped
from reconciler.cli.tables import Listing
from reconciler.cli.unknown import print_unknown
from reconciler.events import times
from reconciler.events.troubles import SWITCHED_OFF
from reconciler.ledger.storage.connection import opened, unfit
from reconciler.ledger.views.copies import Copy
from reconciler.ledger.views.status import ProjectStatus, Status
from reconciler.ledger.views.status import status as read_status
from reconciler.polling.knowledge import asked
from reconciler.polling.schedule import expected
from reconciler.sources.table import keeps


def status(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show what is unknown, the coverage and gaps of each project, and the pending events of each destination."""
    loaded = read_config(config)
    now = times.now()
    with opened(loaded.ledger.location, readonly=True) as db:
        found = read_status(db, asked=asked(loaded, now), keeps=keeps(), expected=expected(loaded, now), now=now)
    found = msgspec.structs.replace(found, unfit=unfit(loaded.ledger.location))
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        _print(found, is_configured=bool(loaded.destinations))


def _print(found: Status, *, is_configured: bool) -> None:
    print_unknown(found.unknown)
    waits = f" {found.backlog.waiting:,} more to be recorded." if found.backlog.waiting else ""
    out.print(f"{found.events:,} event{'s' if found.events != 1 else ''}.{waits} Times are UTC.\n")
    projects = Listing("project", "last webhook", "last poll", "covered through", "gaps",
                       right=("gaps",), texts=("project",), spare=("last poll",))  # fmt: skip
    for project in found.projects:
        projects.add(
            _name(project),
            shown(project.last_webhook_at),
            shown(project.last_poll_at),
            shown(project.covered_through),
            f"{len(project.gaps):,}" if project.gaps else "-" if project.last_poll_at is None else "none",
        )
    out.print(projects or "No projects yet.")
    for words in grouped((_name(project), note) for project in found.projects for note in _notes(project)):
        out.print(f"  {words}")
    out.print()
    destinations = Listing("destination", "state", "pending", "oldest", "dead letters", "last error",
                           right=("pending", "dead letters"), texts=("destination", "last error"))  # fmt: skip
    for destination in found.destinations:
        destinations.add(
            destination.name,
            destination.state,
            f"{destination.pending:,}",
            shown(destination.oldest_pending_at),
            f"{destination.dead_letters:,}",
            destination.last_error or "-",
        )
    none = "No destination is configured."
    if is_configured:
        none = "No destination is in use yet: `serve` applies the config, and `reload` while it runs."
    out.print(destinations or none)
    for destination in found.destinations:
        if destination.blocked_by is not None:
            out.print(f"\n{destination.name}: {destination.blocked_by.text}")
    if found.copies:
        out.print(f"\n{_copies(found.copies)}")
    if found.unfit is not None:
        out.print(f"\nA copy with this config can't take over: {found.unfit}", style="bold red")
    for alert in found.alerts:
        out.print(f"\nalert: {alert}")


def _copies(found: Sequence[Copy]) -> str:
    def names(works: bool) -> str:
        return ", ".join(f"{one.host} (process {one.process})" for one in found if one.works == works)

    working = names(True)
    first = f"{working} works" if working else "none of them works: see their logs"
    waiting = f"; standing by: {names(False)}" if names(False) else ""
    return f"{len(found)} {'copies' if len(found) > 1 else 'copy'}: {first}{waiting}."


def _name(project: ProjectStatus) -> str:
    return project.path or str(project.id)


def _notes(project: ProjectStatus) -> list[str]:
    """What is unknown about a project, and why."""
    notes = [
        f"webhook {hook.name} has been disabled since {shown(hook.disabled_since)}" for hook in project.hooks_disabled
    ]
    by_range: dict[str, list[str]] = {}
    for gap in project.gaps:
        if project.troubles.get(gap.source) in (None, SWITCHED_OFF):
            during = f"{shown(gap.start)} to {shown(gap.end)} ({gap.why})"
            by_range.setdefault(during, []).append(gap.source)
    notes += [f"{during}: {', '.join(sources)}" for during, sources in by_range.items()]
    by_trouble: dict[str, list[str]] = {}
    for source, trouble in project.troubles.items():
        by_trouble.setdefault(trouble, []).append(source)
    off = by_trouble.pop(SWITCHED_OFF, [])
    notes += [f"{', '.join(sources)} can't be read: {trouble}" for trouble, sources in by_trouble.items()]
    if off:
        notes.append(f"{', '.join(off)}: switched off in the project")
    if project.last_poll_error:
        notes.append("last poll failed: " + project.last_poll_error)
    if project.last_poll_at is None:
        notes.append("never polled")
    return notes
