"""`repair`: checks the ledger for damage and repairs it."""

from __future__ import annotations

from reconciler.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    err,
    ledger_file,
    out,
    print_json,
    read_config,
)
from reconciler.ledger.upkeep.repair import repair as repair_ledger


def repair(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Check the ledger for damage, and repair it if possible. `serve` must not be running.

    Damaged indexes are rebuilt: a new ledger is written from the tables and replaces the damaged one, which is kept
    next to it (so there must be space for both). If a table is damaged, data is lost: nothing is changed then, and
    you have to restore a backup.
    """
    path = ledger_file(read_config(config), "PostgreSQL checks and repairs its own files")
    aside = repair_ledger(path, lambda what: err.print(f"{what} …"))
    if as_json:
        print_json(
            {"path": str(path), "repaired": aside is not None, "damaged": None if aside is None else str(aside)}
        )
    elif aside is None:
        out.print(f"{path} is not damaged.")
    else:
        out.print(f"{path} is repaired, and nothing was lost. The damaged file is now {aside}.")
