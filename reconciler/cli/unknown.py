"""What is not known, as commands show it: before anything else."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from reconciler.cli.common import out, shown
from reconciler.ledger.unknowns import Unknown

MOST = 50
"""So many are shown to a person; JSON has all."""


def print_unknown(found: Sequence[Unknown], *, to: Console = out) -> None:
    """Print it, with the reason and since when. Nothing where all is known."""
    if not found:
        return
    to.print("Not known (times are UTC):\n", highlight=False, style="bold red")
    for one in found[:MOST]:
        since = "" if one.since is None else f" since {shown(one.since)}"
        to.print(f"  {one.kind} {one.name}: {one.trouble}{since}", highlight=False, markup=False)
        to.print(f"    {one.why}", highlight=False, markup=False)
    if len(found) > MOST:
        to.print(f"  and {len(found) - MOST:,} more: --json shows all", highlight=False)
    to.print()
