"""`backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn

from reconciler.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    err,
    fail,
    ledger_file,
    out,
    print_json,
    read_config,
)
from reconciler.cli.occupied import config_for
from reconciler.cli.output import ended_like_interrupted
from reconciler.cli.replaying import YesOption
from reconciler.ledger.upkeep import backup as copying
from reconciler.ledger.upkeep.backup import Copy

DUMP = "use PostgreSQL's own backups, like pg_dump"


def backup(
    target: Annotated[Path, typer.Argument(help="A new file, or a folder.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Copy the ledger and check the copy. Safe while `serve` is running."""
    path = ledger_file(config_for(target, config), DUMP)
    with ended_like_interrupted(), Progress(
        TextColumn("copying"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), console=err,
        disable=not err.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("copying", total=None)
        made = copying.backup(path, target, lambda done, total: progress.update(task, completed=done, total=total))
    _report(made, f"Backup: {made.path}", as_json)


def restore(
    source: Annotated[Path, typer.Argument(help="A file written by `backup`.")],
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a backup and replace the ledger with it. `serve` must not be running. Asks first.

    The current ledger is kept next to it. Events recorded since the backup are recovered from GitLab at the next
    start, as far as GitLab still has them, and delivered again with new IDs, because the backup does not contain
    their old ones.
    """
    path = ledger_file(read_config(config), DUMP)
    found = copying.inspect(source)
    err.print(f"{source} is intact: {_summary(found)}.")
    if not yes and not typer.confirm(f"Replace {path} with it?", err=True):
        fail("nothing was changed")
    restored, aside = copying.restore(source, path)
    if aside is not None and not as_json:
        out.print(f"The previous ledger is now {aside}.")
    _report(restored, f"Restored to {path}", as_json)


def _report(copy: Copy, what: str, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(copy))
    else:
        out.print(f"{what}: {_summary(copy)}.")


def _summary(copy: Copy) -> str:
    newest = "none" if copy.newest is None else copy.newest[:19].replace("T", " ")
    events = f"{copy.events:,} events, the newest from {newest}"
    return f"{events}, {copy.undelivered:,} pending deliveries, {copy.bytes:,} bytes"
