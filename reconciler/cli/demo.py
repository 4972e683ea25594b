"""`demo`: the service at work against a simulated GitLab, on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from reconciler.cli.common import FAILED, USAGE, fail, out
from reconciler.cli.ledger import ledger_name
from reconciler.cli.tables import Listing
from reconciler.demo import Demo, DemoError, Result
from reconciler.location import PostgresUrl


def demo(
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Keep the ledger in this PostgreSQL database, like postgresql://user@host/database, in a schema "
            "that is removed at the end. For a URI with a password, name an environment variable (`env:NAME`) or a "
            "file (`file:PATH`) that contains it.  [default: a SQLite file]",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the dashboard open after the run, until Ctrl-C.")
    ] = False,
) -> None:
    """Run a demo: a simulated GitLab, the service, and a destination that goes down.

    Takes about 20 seconds on an idle machine, needs no account, and leaves no files behind. Exits with 1 if an event
    was lost or recorded twice.
    """
    start = time.monotonic()

    def say(what: str) -> None:
        out.print(f"{time.monotonic() - start:5.1f}s  {what}")

    with TemporaryDirectory(prefix="gitlab-reconciler-demo-") as folder, _place(ledger) as url:
        shown = Demo(Path(folder), say, url=url, dashboard=keep)
        try:
            with shown.run() as result:
                _print(result)
                if keep:
                    shown.keep(_print_dashboard)
        except DemoError as error:
            fail(str(error))
    if not result.agrees:
        fail(
            "the figures do not agree with what the simulator did: of its webhooks, "
            f"{result.acknowledged} were acknowledged"
        )
    raise typer.Exit(0 if result.agrees else FAILED)


@contextmanager
def _place(named: str | None) -> Iterator[PostgresUrl | None]:
    if named is None:
        yield None
        return
    try:
        url = ledger_name(named)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint="'--ledger'") from error
    if not isinstance(url, PostgresUrl):
        fail("--ledger: should be a database of PostgreSQL: without the option, the ledger is a SQLite file", USAGE)
    try:
        from reconciler.ledger.storage.scratch import scratch_ledger
    except ImportError as error:
        fail(f"--ledger needs `pip install 'gitlab-reconciler[postgresql]'`: {error}")
    with scratch_ledger(url, prefix="demo") as place:
        yield place


def _print_dashboard(url: str) -> None:
    out.print()
    out.print(
        f"The dashboard: {url} (no token is needed on this machine). Ctrl-C ends the demo and removes its files."
    )


def _print(result: Result) -> None:
    figures = result.figures
    rows = {
        "happened in GitLab": result.happened,
        "recorded by webhook": figures.by_webhook,
        "recovered by API": figures.by_api,
        "duplicates removed": figures.repeats,
        "delivered": result.delivered,
        "lost": result.lost,
    }
    listing = Listing("", "events", right=("events",))
    for name, number in rows.items():
        listing.add(name, str(number), style="bold green" if name == "lost" and number == 0 else None)
    out.print()
    out.print(listing)
