"""Puts the subcommands together."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from reconciler import __version__
from reconciler.cli import (
    backfill,
    backup,
    check,
    dead,
    demo,
    destinations,
    events,
    gaps,
    hooks,
    init,
    prune,
    reload,
    repair,
    replay,
    schema,
    serve,
    status,
)
from reconciler.cli.failing import ending

app = typer.Typer(
    name="gitlab-reconciler",
    help="Never lose a GitLab event: webhooks and the API into one durable ledger, forwarded until taken.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(init.init)
app.command()(check.check)
app.command()(serve.serve)
app.command()(reload.reload)
app.command()(backfill.backfill)
app.command()(status.status)
app.command()(gaps.gaps)
app.add_typer(events.app, name="events")
app.add_typer(hooks.app, name="hooks")
app.add_typer(destinations.app, name="destinations")
app.add_typer(dead.app, name="dead")
app.command()(replay.replay)
app.command()(prune.prune)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(repair.repair)
app.command()(demo.demo)
app.command()(schema.schema)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gitlab-reconciler {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Never lose a GitLab event: webhooks and the API into one durable ledger, forwarded until taken."""


def main() -> None:
    """Run the command line."""
    try:
        sys.exit(ending(app, prog_name="gitlab-reconciler"))
    except BrokenPipeError:  # `… | head`
        sys.stderr.close()
        sys.exit(0)
