"""`hooks`: our webhooks in GitLab."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from reconciler import logs
from reconciler.cli.command_groups import ListUnlessNamed
from reconciler.cli.common import (
    DEFAULT_CONFIG,
    FAILED,
    USAGE,
    ConfigOption,
    JsonOption,
    err,
    fail,
    out,
    positive,
    print_json,
    project_name,
    read_config,
    shown,
)
from reconciler.cli.grouping import grouped, named
from reconciler.cli.moments import moment
from reconciler.cli.tables import Listing
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.moments import HOW
from reconciler.ledger.ledger import open_beside
from reconciler.polling.ensure import Ensured
from reconciler.polling.ensure import ensure as ensure_one
from reconciler.polling.reconciling import Reconciling, reconciling
from reconciler.polling.threads import in_thread
from reconciler.sources.errors import SourceError
from reconciler.sources.hook_log import Delivery
from reconciler.sources.hook_settings import TRIGGERS, restrictions
from reconciler.sources.hooks import Hook

T = TypeVar("T")

RESEND_PAUSE_S = 12.5
"""GitLab allows 5 resends per minute, for each hook and user."""

app = typer.Typer(
    help="Set up and list the webhooks of this service in GitLab, and have GitLab resend failed deliveries. Without "
    "a subcommand, lists the webhooks.",
    cls=ListUnlessNamed,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ProjectsOption = Annotated[
    list[str] | None, typer.Option("--project", help="Only this project (ID or path). Repeatable.")
]


@app.command()
def ensure(
    project: ProjectsOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, but change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create or update the webhooks of this service in every configured project and every project of the groups.

    Sets the URL, triggers, secret token and signing token from the config. Other settings (filters, a template) are
    left unchanged, and shown. Requires `receiver.url`, and a token with the `api` scope and the Maintainer role. Safe
    to repeat.
    """
    loaded = _read(config)
    names = _names(project, loaded)

    async def work(polling: Reconciling) -> list[Ensured]:
        found = []
        for name in await _chosen(polling, names):
            for hook in loaded.receiver.hooks:
                found.append(await ensure_one(polling, name, hook, dry_run=dry_run))
        return found

    results = _run(loaded, work)
    if as_json:
        print_json([msgspec.to_builtins(result) for result in results])
    else:
        _print_ensured(results, dry_run=dry_run)
    if any(result.did == "failed" for result in results):
        raise typer.Exit(FAILED)


@app.command("list")
def list_hooks(
    project: ProjectsOption = None, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """List the webhooks of this service in GitLab: their state and URL; with --json also their triggers."""
    loaded = _read(config)
    names = _names(project, loaded)

    async def work(polling: Reconciling) -> list[tuple[str, list[Hook] | str]]:
        found: list[tuple[str, list[Hook] | str]] = []
        for name in await _chosen(polling, names):
            try:
                known = await polling.projects.find(name)
                there = await in_thread(partial(polling.hooks.of, known.id, fresh=True))
                found.append((known.path or str(name), there))
            except SourceError as error:
                found.append((str(name), str(error)))
        return found

    results = _run(loaded, work)
    if as_json:
        print_json([_plain(path, found) for path, found in results])
    else:
        _print_hooks(results)
    if any(isinstance(found, str) for _, found in results):
        raise typer.Exit(FAILED)


@app.command()
def resend(
    project: Annotated[str, typer.Option("--project", help="The project (ID or path).")],
    since: Annotated[
        str | None, typer.Option("--from", help=f"Only deliveries on or after this date or time (UTC): {HOW}.")
    ] = None,
    delivery: Annotated[
        list[int] | None,
        typer.Option("--delivery", parser=positive, help="Only this delivery, by its number in GitLab. Repeatable."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the deliveries, but resend nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Have GitLab resend failed deliveries of the last 7 days (GitLab 17.4 and later; 5 per minute).

    Rarely needed: polling recovers them from GitLab's log. In that log, e-mail addresses are redacted; a resent
    delivery has them. It is recorded as the same event, and its payload replaces the one from the log.
    """
    loaded = _read(config)
    wanted, start = set(delivery or ()), moment(since)
    name = project_name(project)

    async def work(polling: Reconciling) -> list[dict[str, Any]]:
        assert name is not None  # noqa: S101 - the option is required
        known = await polling.projects.find(name)
        chosen: list[tuple[Hook, Delivery]] = []
        for hook in await in_thread(lambda: polling.hooks.of(known.id, fresh=True)):
            for record in (await in_thread(partial(_deliveries, polling, hook)))[::-1]:
                if (record.id in wanted) if wanted else _is_wanted(record, start):
                    chosen.append((hook, record))
        if missing := sorted(wanted - {record.id for _, record in chosen}):
            numbers = ", ".join(map(str, missing))
            fail(f"delivery {numbers}: not in GitLab's log of our webhooks in {project}; nothing was resent")
        if not dry_run:
            await _resend(polling, chosen)
        return [
            {"delivery": record.id, "hook": hook.name, "event": record.hook_event, "status": record.status}
            for hook, record in chosen
        ]

    done = _run(loaded, work)
    if as_json:
        print_json(done)
        return
    listing = Listing("delivery", "hook", "event", "status", right=("delivery",), texts=("hook", "event"))
    for row in done:
        listing.add(str(row["delivery"]), row["hook"], row["event"] or "-", row["status"] or "-")
    out.print(listing or "No failed deliveries in GitLab's log.")
    if done:
        out.print("Dry run: nothing was resent." if dry_run else f"Resent: {len(done)}.")


def _deliveries(polling: Reconciling, hook: Hook) -> list[Delivery]:
    return [Delivery(record.shown) for page in polling.hooks.log(hook) for record in page.records]


def _is_wanted(record: Delivery, start: int | None) -> bool:
    return record.failed and (start is None or (record.made_at or start) >= start)


async def _resend(polling: Reconciling, chosen: list[tuple[Hook, Delivery]]) -> None:
    if len(chosen) > 1:
        wait = _duration(RESEND_PAUSE_S * (len(chosen) - 1))
        err.print(f"{len(chosen):,} to resend: GitLab allows 5 per minute, so this takes {wait}.")
    for done, (hook, record) in enumerate(chosen):
        if done:
            err.print(f"{done:,} of {len(chosen):,} sent; waiting {RESEND_PAUSE_S:g} s …")
            await asyncio.sleep(RESEND_PAUSE_S)
        await in_thread(partial(polling.hooks.resend, hook, record.id))


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:,} minutes"


def _read(config: Path) -> Config:
    loaded = read_config(config)
    if loaded.gitlab.token is None:
        fail(f"{config}: gitlab.token: is required to read from GitLab (scope api)", USAGE)
    return loaded


def _names(project: list[str] | None, config: Config) -> list[int | str]:
    if not (project or config.projects or config.groups):
        fail("no projects: give them with --project or in the config", USAGE)
    return [name for text in project or [] if (name := project_name(text)) is not None]


async def _chosen(polling: Reconciling, names: list[int | str]) -> list[int | str]:
    """The given projects, or all that are configured."""
    if not names:
        await polling.projects.refresh_groups()
    return names or polling.projects.names


def _run(config: Config, work: Callable[[Reconciling], Coroutine[Any, Any, T]]) -> T:
    logs.set_up("warning")

    async def main() -> T:
        async with open_beside(config.ledger.location) as ledger:
            polling = reconciling(config, ledger=ledger)
            try:
                return await work(polling)
            finally:
                polling.stop()

    return asyncio.run(main())


def _print_ensured(results: list[Ensured], *, dry_run: bool) -> None:
    for result in results:
        did = f"would be {result.did}" if dry_run and result.did in ("created", "updated") else result.did
        where = f"{result.project}: webhook {result.hook}"
        if result.did == "failed":
            continue
        out.print(f"{where}: {did}, {result.url}")
        for one in result.differences:
            if result.did == "updated":
                out.print(f"  {one.setting}: {_word(one.have)} -> {_word(one.want)}")
        for warning in result.warnings:
            out.print(f"  ! {warning}", style="yellow")
        subscribed = [one.setting for one in result.differences if one.setting in TRIGGERS]
        if result.did == "created":
            out.print(f"  subscribed to {', '.join(subscribed)}")
    failed = (result for result in results if result.did == "failed")
    for words in grouped((f"{one.project}: webhook {one.hook}", str(one.error)) for one in failed):
        err.print(words, style="red")
    if not results:
        out.print("No projects: give them in the config or with --project.")
    elif dry_run:
        out.print("Dry run: nothing was changed. Tokens are always set again, because GitLab does not reveal them.")


def _word(value: Any) -> str:
    return {True: "on", False: "off", None: "-"}.get(value, str(value)) if not isinstance(value, str) else value


def _plain(path: str, found: list[Hook] | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"project": path, "error": found, "hooks": []}
    kept = ("id", "name", "url", "alert_status", "disabled_until")
    hooks = [
        {name: getattr(hook, name) for name in kept}
        | {"triggers": sorted(hook.triggers), "restrictions": restrictions(hook)}
        for hook in found
    ]
    return {"project": path, "error": None, "hooks": hooks}


def _print_hooks(results: list[tuple[str, list[Hook] | str]]) -> None:
    listing = Listing("project", "hook", "id", "state", "disabled until", "url", right=("id",),
                      texts=("project", "hook", "url"), spare=("disabled until",))  # fmt: skip
    bare = []
    for path, found in results:
        if isinstance(found, str):
            continue
        for hook in found:
            until = times.parse(hook.disabled_until)
            disabled_until = "-" if until is None or until < time.time() * 1000 else shown(times.iso(until))
            listing.add(path, hook.name, str(hook.id), hook.alert_status or "-", disabled_until, hook.url)
        if not found:
            bare.append(path)
    if listing:
        out.print(listing)
    for path, found in results:
        for hook in found if isinstance(found, list) else ():
            for text in restrictions(hook):
                out.print(f"! {path}: webhook {hook.name}: {text}", style="yellow")
    if bare:
        out.print(f"{named(bare)}: no webhook delivers here: `hooks ensure` creates one")
    if not results:
        out.print("No projects: give them in the config or with --project.")
    for words in grouped((path, found) for path, found in results if isinstance(found, str)):
        err.print(words, style="red")
