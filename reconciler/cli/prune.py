"""`prune`: delete data that is older than `retention` allows."""

from __future__ import annotations

import msgspec

from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, fail, out, print_json, read_config
from reconciler.events import times
from reconciler.ledger import beside
from reconciler.ledger.storage.connection import opened, there_is
from reconciler.service.jobs import keep


def prune(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Delete data that is older than `retention` allows, and free the disk space. `serve` does this every hour.

    Events with a pending delivery are kept, and so are dead letters, unless `retention.dead_letters` is set. Safe
    while `serve` is running.
    """
    loaded = read_config(config)
    if not there_is(loaded.ledger.location):
        fail(f"{loaded.ledger.location}: there is no ledger yet")
    with opened(loaded.ledger.location) as db:
        pruned = beside.prune(db, keep(loaded.retention), now=times.now())
    found = msgspec.to_builtins(pruned)
    if as_json:
        print_json(found)
        return
    figures = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.items() if count)
    out.print(f"Deleted: {figures}." if figures else "Nothing is old enough to delete.")
