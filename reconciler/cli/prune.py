"""`prune`: drop what is older than it is to be kept."""

from __future__ import annotations

import msgspec

from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, fail, out, print_json, read_config
from reconciler.events import times
from reconciler.ledger import beside
from reconciler.ledger.storage.connection import opened
from reconciler.service.jobs import keep


def prune(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Drop what is older than `retention` says, and give the space back to the disk. A service does it every hour.

    Events that are not delivered everywhere are kept, and so are dead letters, unless `retention.dead_letters` says
    otherwise. Safe beside a service.
    """
    loaded = read_config(config)
    if not loaded.ledger.path.exists():
        fail(f"{loaded.ledger.path}: there is no ledger yet")
    with opened(loaded.ledger.path) as db:
        pruned = beside.prune(db, keep(loaded.retention), now=times.now())
    found = msgspec.to_builtins(pruned)
    if as_json:
        print_json(found)
        return
    figures = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.items() if count)
    out.print(f"Dropped: {figures}." if figures else "Nothing is old enough to be dropped.")
