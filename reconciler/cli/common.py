"""What the subcommands share: consoles, common options, errors and output."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from reconciler.events import fields
from reconciler.events.fields import as_json, with_payload
from reconciler.events.texts import one_line, printable, safe_json, without_credentials

if TYPE_CHECKING:
    from reconciler.config.models import Config

_PIPE_WIDTH = 200
"""Columns of a table that goes into a file or a pipe."""


def _hold_standard_files() -> None:
    """Put /dev/null where stdin, stdout or stderr was closed: the next file that is opened would take its place, and
    what is printed would go into it.
    """
    # What is printed to a closed stdout must not seem to have arrived: writing there fails.
    standard = ((0, "stdin", "r", os.O_RDWR), (1, "stdout", "w", os.O_RDONLY), (2, "stderr", "w", os.O_RDWR))
    for number, name, mode, flags in standard:
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


_hold_standard_files()


class _Safe(Console):
    """A console on which nothing that others wrote can act: every text that it is given goes through here.

    Nothing in it is markup, or an emoji: `[b]` and `:b:` may be part of a title or a key.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream.isatty() else _PIPE_WIDTH
        super().__init__(stderr=stderr, soft_wrap=True, emoji=False, markup=False, highlight=False, width=width)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


out = _Safe()
err = _Safe(stderr=True)
"""Both use colours only on a terminal, and never if NO_COLOR is set."""

FAILED, USAGE = 1, 2
LARGEST_ID = (1 << 63) - 1
"""The largest integer of SQLite."""

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", help="Path of the config file.", envvar="GITLAB_RECONCILER_CONFIG", show_default=True
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def positive(text: str | int) -> int:
    """A number on the command line, 1 or more."""
    if not re.fullmatch(r"[0-9]{1,19}", str(text), re.ASCII) or not 0 < int(text) <= LARGEST_ID:
        raise typer.BadParameter(f"{str(text)[:40]!r} is not a number from 1 on")
    return int(text)


LimitOption = Annotated[
    int, typer.Option("--limit", "-n", parser=positive, help="Show at most this many, the newest ones.")
]
ProjectOption = Annotated[str | None, typer.Option("--project", help="Only this project (ID or path).")]
KindOption = Annotated[
    str | None, typer.Option("--kind", help="Only events of this kind: push, issue, merge_request, note, …")
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", help="Only events seen by this source: webhook, webhook:NAME, project_events, …"),
]
DEFAULT_CONFIG = Path("config.yaml")


def ledger_file(config: Config, what: str) -> Path:
    """The ledger's file, for a command that is about one. `what` says what to do instead with one in PostgreSQL."""
    location = config.ledger.location
    if not isinstance(location, Path):
        fail(f"the ledger is in PostgreSQL ({location}): {what}", USAGE)
    return location


def read_config(file: Path) -> Config:
    """The config. Raises ConfigError, which ends the program with exit code 2 (see `failing`)."""
    from reconciler.config.load import load  # most of what a command imports, and `--version` needs none of it

    return load(file)


class Failed(Exception):
    """A command failed. The program prints the message (why, and what to do) and exits with `code`."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the program with this message on stderr."""
    raise Failed(message, code)


def say(what: object) -> None:
    """Print an error on stderr. Passwords are removed: libraries put URLs that contain them into their errors."""
    err.print(without_credentials(str(what)), style="red")


def print_json(value: Any, *, payload: str | None = None) -> None:
    """Print one line of JSON on stdout, with control characters escaped.

    `payload` is as in `with_payload`.
    """
    text = json_text(value)
    if payload is not None:
        text = with_payload(text, payload)
    sys.stdout.write(safe_json(text) + "\n")
    sys.stdout.flush()


def json_text(value: Any) -> str:
    """A value as JSON, whatever texts and numbers are in it."""
    return as_json(value)


@contextmanager
def without_logs() -> Iterator[None]:
    """Silence the logs of libraries: errors are raised, and printed once."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def line(*cells: str) -> None:
    """Print the cells of a row as one line, without a table."""
    out.print("  ".join(map(one_line, cells)))


def project_name(text: str | None) -> int | str | None:
    """A project from the command line: an ID or a path."""
    return fields.number(text) or text


def shown(time: str | None) -> str:
    """A time in a table, to the second, or a dash."""
    return "-" if time is None else time[:19].replace("T", " ")
