"""What the subcommands share: consoles, the config option, reading times and printing."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table

from reconciler.config.load import load
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.times import Millis

_PIPE_WIDTH = 200
"""Columns of a table that goes into a file or a pipe."""


def _hold_standard_files() -> None:
    """Put /dev/null where stdin, stdout or stderr was closed: the next file that is opened would take its place, and
    what is printed would go into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


_hold_standard_files()

out = Console(soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, soft_wrap=True, emoji=False, width=None if sys.stderr.isatty() else _PIPE_WIDTH)
"""Both colour only on a terminal, and never where NO_COLOR is set. No emoji: `:b:` is part of a key."""

FAILED, USAGE = 1, 2

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", help="The config file.", envvar="GITLAB_RECONCILER_CONFIG", show_default=True),
]
FromOption = Annotated[str | None, typer.Option("--from", help="Happened on or after this date or time (UTC).")]
ToOption = Annotated[
    str | None, typer.Option("--to", help="Happened on or before this date, or before this time (UTC).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DEFAULT_CONFIG = Path("config.yaml")


def read_config(file: Path) -> Config:
    """The config, or the program ends with what is wrong in it (exit code 2, see `main`)."""
    return load(file)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the program with a message on stderr."""
    err.print(message, style="red", highlight=False, markup=False)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(orjson.dumps(value).decode() + "\n")
    sys.stdout.flush()


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A plain table: columns named in `right` hold figures."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def moment(text: str | None, *, end_of_day: bool = False) -> Millis | None:
    """A date or time from the command line, as UTC where it says no zone.

    A date is the start of its day, or with `end_of_day` the start of the next, so that both days of a range
    are included. Raises typer.BadParameter.
    """
    if text is None:
        return None
    try:
        if len(text) == len("2026-10-01"):
            day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
            day += timedelta(days=1) if end_of_day else timedelta()
            return Millis(round(day.timestamp() * 1000))
    except ValueError:
        pass
    found = times.parse(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no date or time: write 2026-10-01, or 2026-10-01T08:30:00+02:00")
    return found


def project_name(text: str | None) -> int | str | None:
    """A project from the command line: an id, or a path."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


def shown(time: str | None) -> str:
    """A time for a table: to the second, or a dash."""
    return "-" if time is None else time[:19].replace("T", " ")
