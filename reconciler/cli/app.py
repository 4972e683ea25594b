"""Puts the subcommands together. Only what was asked for is imported: most commands need little of the service."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated

import typer

from reconciler import __version__
from reconciler.cli.failing import ending
from reconciler.cli.output import failures_told

COMMANDS = {
    "init": "init:init",
    "check": "check:check",
    "serve": "serve:serve",
    "reload": "reload:reload",
    "backfill": "backfill:backfill",
    "status": "status:status",
    "gaps": "gaps:gaps",
    "events": "events:app",
    "hooks": "hooks:app",
    "destinations": "destinations:app",
    "dead": "dead_letters:app",
    "replay": "replay:replay",
    "prune": "prune:prune",
    "backup": "backup:backup",
    "restore": "backup:restore",
    "repair": "repair:repair",
    "demo": "demo:demo",
    "schema": "schema:schema",
}
"""Each command's module in this package, and its function or its app."""


def command_line(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands."""
    app = typer.Typer(
        name="gitlab-reconciler",
        help=options.__doc__,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(f"reconciler.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gitlab-reconciler {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Never lose a GitLab event: webhooks and the API into one durable ledger, forwarded until taken."""


def _asked(first: list[str]) -> Iterable[str]:
    """The commands that the first argument asks for: one, none for `--version`, or all, for help and for mistakes."""
    if first == ["--version"]:
        return ()
    return [name for name in first if name in COMMANDS] or COMMANDS


def main() -> None:
    """Run the command line."""
    try:
        with failures_told():
            code = ending(command_line(_asked(sys.argv[1:2])), prog_name="gitlab-reconciler")
        sys.exit(code)
    except BrokenPipeError:  # `… | head`
        sys.stderr.close()
        sys.exit(0)
