"""`ledger`: copies a ledger from SQLite to PostgreSQL, or back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn

from reconciler.cli.command_groups import Group
from reconciler.cli.common import FAILED, JsonOption, err, out, print_json
from reconciler.ledger.upkeep import copy as copying
from reconciler.ledger.upkeep.copy import Copied, Step
from reconciler.ledger.upkeep.copy_check import Difference
from reconciler.location import Location, PostgresUrl, problem

app = typer.Typer(cls=Group, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Copy a ledger to another place: from SQLite to PostgreSQL, or back."""


def ledger_name(text: str) -> Location:
    """A ledger on the command line. Raises BadParameter."""
    scheme, _, rest = text.partition(":")
    if scheme in ("env", "file"):
        text = _content(scheme, rest)
        scheme, _, rest = text.partition(":")
    if scheme == "sqlite" and rest and "\0" not in rest:
        return Path(rest)
    if scheme in ("postgresql", "postgres") and rest.startswith("//"):
        if (wrong := problem(text)) is not None:
            raise typer.BadParameter(wrong)
        return PostgresUrl(text)
    raise typer.BadParameter("should be sqlite:PATH, postgresql://HOST/DATABASE, env:NAME or file:PATH")


def _content(scheme: str, name: str) -> str:
    if scheme == "env":
        if not (found := os.environ.get(name, "").strip()):
            raise typer.BadParameter(f"the environment variable {name} is not set")
        return found
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise typer.BadParameter(f"{name}: can't be read: {why}") from error


@app.command()
def copy(
    source: Annotated[str, typer.Option("--from", metavar="LEDGER", help="The ledger to copy.")],
    target: Annotated[str, typer.Option("--to", metavar="LEDGER", help="Where to make the copy.")],
    as_json: JsonOption = False,
) -> None:
    """Copy a ledger with all its events, and compare the copy with it. No service may have one of the two.

    A LEDGER is `sqlite:PATH` or a URI like `postgresql://user@host/database`. Other users can see a command line: for
    a URI with a password, name an environment variable (`env:NAME`) or a file (`file:PATH`) that contains it.

    The copy needs a new place. If it is interrupted, run the same command again: it goes on. Event IDs stay the same,
    and what was delivered is not delivered again. Serve only one of the two ledgers afterwards.
    """
    one, other = _named("--from", source), _named("--to", target)
    with _shown() as report:
        made = copying.copy(one, other, report)
    if as_json:
        print_json(msgspec.to_builtins(made))
    else:
        _tell(made, other)
    if made.differing:
        raise typer.Exit(FAILED)


def _named(option: str, text: str) -> Location:
    try:
        return ledger_name(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=f"'{option}'") from error


@contextmanager
def _shown() -> Iterator[Callable[[Step], None]]:
    """A bar on a terminal, elsewhere a line for each table."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task, last = bar.add_task("copying", total=None), ""

        def report(step: Step) -> None:
            nonlocal last
            words = f"{step.what} {step.table}"
            bar.update(task, description=words, completed=step.done, total=step.total)
            if not err.is_terminal and words != last:
                err.print(f"{words}: {step.done:,} of {step.total:,} rows")
            last = words

        yield report


def _tell(made: Copied, where: Location) -> None:
    rows = made.rows
    out.print(
        f"Copied to {where}: {rows.get('events', 0):,} events, {rows.get('deliveries', 0):,} deliveries, "
        f"{rows.get('intake', 0):,} webhooks that wait, {sum(rows.values()):,} rows in all."
    )
    if made.replaced:
        out.print(f"{made.replaced:,} values can't be written as they are: their unreadable parts were replaced.")
    if made.left_out:
        out.print(f"{made.left_out:,} unreadable rows were left out.")
    if not made.differing:
        out.print("The copy has the same content. Point the config to it and start the service.")
        return
    out.print(f"{made.differing:,} differences from the source, so that the copy can't be used:")
    for one in made.differences:
        out.print(f"  {_words(one)}")
    out.print("If only the intake differs, run the same command again. Otherwise remove the copy and begin anew.")


def _words(one: Difference) -> str:
    project = "no project" if one.project_id is None else f"project {one.project_id}"
    where = "" if one.day is None else f" of {project} on {one.day}"
    if one.source == one.copy:
        return f"{one.what}{where}: {one.source:,}, with other content"
    return f"{one.what}{where}: {one.source:,} in the source, {one.copy:,} in the copy"
