"""`demo`: the service at work against a simulated GitLab, on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from reconciler.cli.common import FAILED, fail, out
from reconciler.cli.tables import Listing
from reconciler.demo import Demo, DemoError, Result


def demo() -> None:
    """Run a demo: a simulated GitLab, the service, and a destination that goes down.

    Takes about 20 seconds on an idle machine, needs no account, and leaves no files behind. Exits with 1 if an event
    was lost or recorded twice.
    """
    start = time.monotonic()

    def say(what: str) -> None:
        out.print(f"{time.monotonic() - start:5.1f}s  {what}")

    with TemporaryDirectory(prefix="gitlab-reconciler-demo-") as folder:
        try:
            result = Demo(Path(folder), say).run()
        except DemoError as error:
            fail(str(error))
    _print(result)
    if not result.agrees:
        fail("the figures do not agree with what the simulator did")
    raise typer.Exit(0 if result.agrees else FAILED)


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
