"""`backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn

from reconciler.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, err, fail, out, print_json, read_config
from reconciler.cli.resend import YesOption
from reconciler.ledger.upkeep import backup as copying
from reconciler.ledger.upkeep.backup import Copy


def backup(
    target: Annotated[Path, typer.Argument(help="A file that is not there yet, or a folder.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Make a consistent copy of the ledger, while the service runs, and check it."""
    loaded = read_config(config)
    with Progress(
        TextColumn("copying"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), console=err,
        disable=not err.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("copying", total=None)
        made = copying.backup(
            loaded.ledger.path, target, lambda done, total: progress.update(task, completed=done, total=total)
        )
    _report(made, f"Backup: {made.path}", as_json)


def restore(
    source: Annotated[Path, typer.Argument(help="A file that `backup` made.")],
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a backup, and put it in the ledger's place. The service must not run. Asks first.

    The ledger that is there is kept beside it. What was recorded since the backup is asked of GitLab again at the
    next start, and sent again: with new ids, as nobody knows any more which those were.
    """
    loaded = read_config(config)
    found = copying.inspect(source)
    err.print(f"{source} is sound: {_words(found)}.")
    if not yes and not typer.confirm(f"Put it in the place of {loaded.ledger.path}?", err=True):
        fail("nothing was changed")
    restored, aside = copying.restore(source, loaded.ledger.path)
    if aside is not None and not as_json:
        out.print(f"The ledger that was there is {aside} now.")
    _report(restored, f"Restored to {loaded.ledger.path}", as_json)


def _report(copy: Copy, what: str, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(copy))
    else:
        out.print(f"{what}: {_words(copy)}.")


def _words(copy: Copy) -> str:
    newest = "none" if copy.newest is None else copy.newest[:19].replace("T", " ")
    return (
        f"{copy.events:,} events, the newest of {newest}, {copy.undelivered:,} deliveries open, {copy.bytes:,} bytes"
    )
