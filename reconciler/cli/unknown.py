"""What is unknown, which commands show before anything else."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console

from reconciler.cli.common import out, shown
from reconciler.cli.grouping import MOST_NAMES, named, without_request
from reconciler.ledger.views.unknowns import Unknown

MOST = 50
"""How many are printed; JSON has all."""


def print_unknown(found: Sequence[Unknown], *, to: Console = out) -> None:
    """Print each with the reason and since when. Prints nothing if nothing is unknown."""
    if not found:
        return
    to.print("Unknown (times are UTC):\n", style="bold red")
    groups = together(found)
    for one in groups[:MOST]:
        to.print(f"  {one.what}")
        to.print(f"    {one.why}")
    if len(groups) > MOST or any(len(one.names) > MOST_NAMES for one in groups):
        to.print("  --json shows all")
    to.print()


class Together(msgspec.Struct, frozen=True):
    """Several unknowns with the same reason."""

    kind: str
    names: tuple[str, ...]
    trouble: str
    why: str
    since: str | None

    @property
    def what(self) -> str:
        """What is unknown, and since when."""
        since = "" if self.since is None else f" since {shown(self.since)}"
        return f"{self.kind} {named(self.names)}: {self.trouble}{since}"


def together(found: Sequence[Unknown]) -> list[Together]:
    """Unknowns grouped by reason, in the order in which they were found."""
    groups: dict[tuple[str, str, str], list[Unknown]] = {}
    for one in found:
        own = one.why.removeprefix(f"{one.name.rpartition(' of ')[2]}: ")
        groups.setdefault((one.kind, one.trouble, without_request(own)), []).append(one)
    return [
        Together(
            kind=kind,
            names=tuple(one.name for one in those),
            trouble=trouble,
            why=why if len(those) > 1 else those[0].why,
            since=min((one.since for one in those if one.since is not None), default=None),
        )
        for (kind, trouble, why), those in groups.items()
    ]
