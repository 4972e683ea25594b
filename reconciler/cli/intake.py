"""`intake`: webhooks that were acknowledged and are not recorded."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from reconciler.cli.command_groups import ListUnlessNamed
from reconciler.cli.common import (
    DEFAULT_CONFIG,
    FAILED,
    LARGEST_ID,
    ConfigOption,
    JsonOption,
    fail,
    out,
    print_json,
    read_config,
    shown,
)
from reconciler.cli.tables import Listing
from reconciler.ledger import beside
from reconciler.ledger.recording import unrecorded
from reconciler.ledger.recording.unrecorded import UnrecordedRow
from reconciler.ledger.storage.connection import opened, there_is
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.served import is_served
from reconciler.ledger.views.backlog import backlog

PATIENCE_S = 30.0
CHECK_INTERVAL_S = 0.05

app = typer.Typer(cls=ListUnlessNamed, no_args_is_help=False)


def _identifier(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > LARGEST_ID:
        raise typer.BadParameter(f"{text[:40]!r} is none of the ids that `intake list` shows")
    return int(text)


@app.callback()
def webhooks() -> None:
    """List webhooks that were acknowledged and could not be recorded, try again, or delete them.

    Without a subcommand, lists them.
    """


@app.command("list")
def list_(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the webhooks that could not be recorded, newest first, and say how many wait to be recorded."""
    with opened(read_config(config).ledger.location, readonly=True) as db:
        waits, found = backlog(db), unrecorded.unrecorded(db)
    if as_json:
        print_json({"backlog": msgspec.to_builtins(waits), "unrecorded": msgspec.to_builtins(found)})
        return
    if waits.error is not None:
        out.print(f"The intake can't be read: {waits.error}")
    elif waits.waiting:
        out.print(f"{_webhooks(waits.waiting)} waiting to be recorded, the first since {shown(waits.oldest_at)}.")
    out.print(_listing(found) or "No webhook failed to be recorded.")


@app.command()
def show(
    ident: Annotated[int, typer.Argument(metavar="ID", help="As `intake list` shows it.", parser=_identifier)],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write the body of a webhook that could not be recorded to stdout, unchanged."""
    with opened(read_config(config).ledger.location, readonly=True) as db:
        found = unrecorded.body(db, ident)
    if found is None:
        fail(_no_such([ident]))
    sys.stdout.buffer.write(found)
    sys.stdout.buffer.flush()


@app.command()
def retry(
    idents: Annotated[
        list[int] | None,
        typer.Argument(metavar="ID", help="As `intake list` shows them; all by default.", parser=_identifier),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Try again to record webhooks that could not be recorded.

    A running service does this at once, otherwise its next start. A start retries all of them by itself, except those
    that ended the worker.
    """
    path = read_config(config).ledger.location
    with opened(path) as db:
        known = unrecorded.idents(db)
        asked = set(idents) if idents else known
        if unknown := sorted(asked - known):
            fail(_no_such(unknown))
        marked = beside.retry_unrecorded(db, sorted(asked))
        runs = is_served(path)
        left = _wait(db, asked) if runs and marked else marked
        kept = len(asked & unrecorded.idents(db))
    if as_json:
        print_json({"retried": marked, "due": left, "unrecorded": kept})
        if runs and kept:
            raise typer.Exit(FAILED)
    elif not marked:
        out.print("No webhook failed to be recorded.")
    elif not runs:
        out.print(f"{_webhooks(marked)} tried again when the service starts.")
    elif left:
        fail(f"the service did not try {_webhooks(left)} again within {PATIENCE_S:.0f} s: see its log")
    elif kept:
        fail(f"{_webhooks(kept)} not recorded: `intake list` says why")
    else:
        out.print(f"{marked:,} webhook{'s' if marked > 1 else ''} recorded.")


@app.command()
def discard(
    idents: Annotated[
        list[int], typer.Argument(metavar="ID", help="As `intake list` shows them.", parser=_identifier)
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Delete webhooks that could not be recorded, with their bodies. Does not ask.

    `intake show` writes the body of one, for example to a file. Those that are still to be tried are not discarded.
    """
    path = read_config(config).ledger.location
    if not there_is(path):
        fail(f"{path}: there is no ledger yet")
    with opened(path) as db:
        done = beside.discard_unrecorded(db, idents, is_served=lambda: is_served(path))
    if done.unknown:
        fail(f"{_no_such(done.unknown)}; nothing was changed")
    if done.untried:
        fail(f"still to be tried by the service: {_names(done.untried)}; nothing was changed")
    if as_json:
        print_json({"discarded": msgspec.to_builtins(done.discarded)})
        return
    out.print(f"{_webhooks(len(done.discarded))} discarded:")
    out.print(_listing(done.discarded))


def _listing(found: Sequence[UnrecordedRow]) -> Listing:
    rows = Listing(
        "id", "received", "hook", "bytes", "tries", "error", right=("id", "bytes", "tries"), texts=("error",)
    )
    for one in found:
        rows.add(
            str(one.id), shown(one.received_at), one.hook, f"{one.bytes:,}", f"{one.tries}",
            "to be tried again" if one.due else one.error,
        )  # fmt: skip
    return rows


def _wait(db: Database, asked: set[int]) -> int:
    """Wait until the service has tried them all. Returns how many are left."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := len(asked & unrecorded.idents(db, due=True))) and time.monotonic() < deadline:
        time.sleep(CHECK_INTERVAL_S)
    return left


def _webhooks(count: int) -> str:
    return f"{count:,} webhook{'s are' if count > 1 else ' is'}"


def _no_such(idents: Sequence[int]) -> str:
    return f"there is no webhook {_names(idents)}: `intake list` shows them"


def _names(idents: Sequence[int]) -> str:
    return ", ".join(map(str, idents))
