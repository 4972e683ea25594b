"""Assembles the subcommands. Only the one that was given is imported: most need little of the service."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any

import typer

from reconciler import __version__
from reconciler.cli.command_groups import Group
from reconciler.cli.failing import ending
from reconciler.cli.output import output_failures

COMMANDS = {
    "setup": "setup:setup",
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
    "dead-letters": "dead_letters:app",
    "intake": "intake:app",
    "replay": "replay:replay",
    "export": "export:export",
    "prune": "prune:prune",
    "backup": "backup:backup",
    "restore": "backup:restore",
    "repair": "repair:repair",
    "ledger": "ledger:app",
    "demo": "demo:demo",
    "schema": "schema:schema",
}
"""Each command's module in this package, and its function or its app."""
RENAMED = {"dead": "dead-letters"}
"""Commands that had another name in earlier versions."""


class Commands(Group):
    """The top-level commands. The old name of one is refused, and the message gives the new one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in RENAMED:
            ctx.fail(f"`{args[0]}` is now called `{RENAMED[args[0]]}`")
        return super().resolve_command(ctx, args)


def command_line(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands."""
    app = typer.Typer(
        name="gitlab-reconciler",
        cls=Commands,
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
    """Never lose a GitLab event: record webhooks, recover missed events from the API, and deliver them all."""


def _asked(first: list[str]) -> Iterable[str]:
    """The commands that the first argument asks for: one, none for `--version`, or all, for help and for mistakes."""
    if first == ["--version"]:
        return ()
    return [name for name in first if name in COMMANDS] or COMMANDS


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:  # a SIGHUP waits until the service takes it: without a handler it ends the process
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        with output_failures():
            code = ending(command_line(_asked(sys.argv[1:2])), prog_name="gitlab-reconciler")
        sys.exit(code)
    except BrokenPipeError:  # `… | head`
        sys.stderr.close()
        sys.exit(0)
