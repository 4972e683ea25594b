"""`repair`: a damaged ledger."""

from __future__ import annotations

from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, err, out, print_json, read_config
from reconciler.ledger.upkeep.repair import repair as mend


def repair(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Look through the ledger, and repair what can be repaired. The service must not run.

    Damaged indexes are built anew: a new ledger is written from what is in the tables, and takes the damaged one's
    place, which is kept beside it (so there must be room for both). Where a table is damaged, a part of it is lost:
    then nothing is changed, and a backup has to be restored.
    """
    path = read_config(config).ledger.path
    aside = mend(path, lambda what: err.print(f"{what} …"))
    if as_json:
        print_json(
            {"path": str(path), "repaired": aside is not None, "damaged": None if aside is None else str(aside)}
        )
    elif aside is None:
        out.print(f"{path} is sound.")
    else:
        out.print(f"{path} is repaired: nothing is lost. The damaged file is {aside} now.")
