"""`check`: whether everything in the config exists and responds, and what to do if not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec
import typer
from pydantic import SecretStr

from reconciler.cli.common import (
    DEFAULT_CONFIG,
    FAILED,
    ConfigOption,
    JsonOption,
    print_json,
    read_config,
    without_logs,
)
from reconciler.cli.findings import Finding, attempt, show
from reconciler.cli.grouping import named, without_request
from reconciler.cli.ports import ports
from reconciler.cli.unknown import together
from reconciler.cli.weak_secrets import MAKE_A_KEY, weaknesses
from reconciler.config.building import CLOSE_PATIENCE_S
from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.config.models import Config
from reconciler.config.weak_secrets import SHORTEST_KEY, guessable_key
from reconciler.events import times
from reconciler.events.texts import without_credentials
from reconciler.forwarding.filter_doubts import doubts
from reconciler.forwarding.kind import Kind
from reconciler.ledger import beside
from reconciler.ledger.coverage import downtime, runs, source_state
from reconciler.ledger.errors import LedgerBehind, LedgerError
from reconciler.ledger.storage.connection import connect, opened, server_problems, there_is, unfit
from reconciler.ledger.views.unknowns import unknowns
from reconciler.polling.knowledge import asked
from reconciler.sources.client import Client
from reconciler.sources.errors import SourceError
from reconciler.sources.groups import projects_below
from reconciler.sources.hook_settings import restrictions, unsigned
from reconciler.sources.hooks import Hook, Hooks
from reconciler.sources.instance import own_token, readable_project, shown_token, version

PATIENCE_S = 10.0
"""Upper bound for a destination, even if its `timeout` is longer."""


def check(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Check the config, GitLab, the token, projects, destinations, ports and the ledger."""
    found = _findings(read_config(config), str(config))
    if as_json:
        findings = list(found)
        print_json([msgspec.structs.asdict(finding) for finding in findings])
    else:
        findings = []
        for finding in _each_once(found):
            findings.append(finding)
            show(finding)
    if not all(finding.ok or finding.is_warning for finding in findings):
        raise typer.Exit(FAILED)


def _each_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """What is wrong with several projects alike becomes one finding, after those that are as they should be."""
    alike: dict[tuple[str, str, bool], list[Finding]] = {}
    for finding in findings:
        if finding.ok or finding.project is None:
            if finding.project is None:
                yield from _merged(alike)
            yield finding
            continue
        what = finding.what.replace(finding.project, "{}", 1)
        alike.setdefault((what, without_request(finding.advice or ""), finding.is_warning), []).append(finding)
    yield from _merged(alike)


def _merged(alike: dict[tuple[str, str, bool], list[Finding]]) -> Iterator[Finding]:
    """What was put together so far; nothing of it is left."""
    while alike:
        (what, advice, is_warning), those = next(iter(alike.items()))
        del alike[what, advice, is_warning]
        if len(those) == 1:
            yield those[0]
        else:
            names = named([str(one.project) for one in those])
            yield Finding(what.replace("{}", names, 1), False, advice, is_warning)


def _findings(config: Config, file: str) -> Iterator[Finding]:
    yield from _unknown(config)
    yield Finding(f"config: {file} is valid", True)
    yield from (Finding(what, wrong is None, wrong) for what, wrong in ports(config))
    yield from _hooks(config)
    yield from _gitlab(config)
    with without_logs():  # of the brokers' clients
        yield from asyncio.run(_destinations(config.destinations))
    if not config.destinations:
        yield Finding("destinations", False, "none are configured: events are recorded but not delivered")
    yield _ledger(config)
    yield from _filters(config)


def _filters(config: Config) -> Iterator[Finding]:
    """Filters that let nothing through so far. A ledger that can't be read was reported."""
    try:
        with opened(config.ledger.location, readonly=True) as db:
            found = doubts(config, db)
    except LedgerError:
        return
    for destination, why in found:
        yield Finding(f"destination {destination}", False, why, is_warning=True)


def _unknown(config: Config) -> Iterator[Finding]:
    """What the service could not read when it last tried. Whether that is so now, the other findings say."""
    if not there_is(config.ledger.location):
        return
    try:
        with opened(config.ledger.location, readonly=True) as db:
            now = times.now()
            ever = downtime.life(db).alive_at is not None  # before the first start nobody could read anything
            found = unknowns(db, asked(config, now), now=now) if ever else []
            paths = {ident: path for path, ident in runs.project_paths(db).items()}
            off = [(paths.get(ident, ident), some) for ident, some in source_state.switched_off(db).items()]
    except LedgerError:  # the ledger's own finding says what is wrong
        return
    for path, sources in off:
        yield Finding(f"project {path}: {', '.join(sources)}: switched off in the project: no gap since then", True)
    for one in together(found):
        yield Finding(f"unknown: {one.what}", False, one.why, is_warning=True)


def _hooks(config: Config) -> Iterator[Finding]:
    for hook in config.receiver.hooks:
        for advice in weaknesses(hook):
            yield Finding(f"hook {hook.name}", False, advice)


def _gitlab(config: Config) -> Iterator[Finding]:
    if config.gitlab.token is None:
        yield Finding(
            "gitlab.token", False, "without a token, events that webhooks miss can't be recovered", is_warning=True
        )
        return
    client = Client(config.gitlab, tries=1)
    reachable = attempt(
        f"GitLab at {config.gitlab.url} answers",
        lambda: f"version {version(client)}",
    )
    yield reachable
    if not reachable.ok:
        return
    yield attempt("the token may read the API", lambda: shown_token(own_token(client)))
    if not config.projects and not config.groups:
        yield Finding("projects", False, "none are configured: events that webhooks miss are not recovered")
    hooks = Hooks(client, config.receiver)
    for entry in config.projects:
        for found in _project(client, hooks, entry.project):
            yield msgspec.structs.replace(found, project=str(entry.project))
    for group in config.groups:
        yield attempt(f"group {group}", partial(_projects_of, client, group))


def _project(client: Client, hooks: Hooks, name: int | str) -> Iterator[Finding]:
    found = attempt(f"project {name}", partial(_seen, client, name))
    yield found
    if found.ok:
        yield from _webhooks(client, hooks, name)


def _webhooks(client: Client, hooks: Hooks, name: int | str) -> Iterator[Finding]:
    """Our webhooks in the project, and whether their log can be read: it has GitLab's own bodies."""
    what = f"project {name}: webhooks"
    try:
        found = hooks.of(client.project(name).id)
    except SourceError as error:
        advice = f"can't be read, nor can their log: events that they miss are rebuilt from other sources ({error})"
        yield Finding(what, False, advice, is_warning=True)
        return
    if not found:
        yield Finding(what, False, "none delivers here yet: `hooks ensure` creates one", is_warning=True)
    wanted = {entry.name: entry for entry in hooks.entries}
    for hook in found:
        for text in restrictions(hook):
            yield Finding(f"{what}: {hook.name}", False, text, is_warning=True)
        trouble = unsigned(wanted[hook.name], hook)
        if trouble is not None:
            yield Finding(f"{what}: {hook.name}", False, trouble, is_warning=wanted[hook.name].token is not None)
        if hook.is_disabled:
            yield Finding(f"{what}: {hook.name}", False, f"GitLab has disabled it ({hook.alert_status})")
        log = attempt(f"project {name}: GitLab's log of webhook {hook.name}", partial(_log_of, hooks, hook))
        if log.ok:
            yield log
        else:
            advice = f"{log.advice}: needs GitLab 17.3 and the Maintainer role; the other sources are read"
            yield Finding(log.what, False, advice, is_warning=True)


def _log_of(hooks: Hooks, hook: Hook) -> str:
    newest = next(hooks.log(hook)).records
    return f"last delivery: {newest[0].shown.response_status}" if newest else "no delivery yet"


def _seen(client: Client, name: int | str) -> str:
    project = readable_project(client, name)
    return f"{project.path}, id {project.id}"


def _projects_of(client: Client, group: int | str) -> str:
    return f"{len(projects_below(client, group))} projects"


async def _destinations(wanted: list[Destination]) -> list[Finding]:
    """Check all of them concurrently."""
    return [one for found in await asyncio.gather(*map(_destination, wanted)) for one in found]


async def _destination(destination: Destination) -> list[Finding]:
    what = f"destination {destination.name}"
    secret = getattr(destination, "secret", None)
    found = []
    if isinstance(secret, SecretStr) and guessable_key(secret):
        advice = f"its secret can be guessed: use {SHORTEST_KEY} bytes or more; {MAKE_A_KEY} makes one"
        found.append(Finding(what, False, advice))
    patience_s = min(destination.timeout / 1000, PATIENCE_S)
    try:
        said = await asyncio.wait_for(_ask(destination), patience_s)
    except TimeoutError:
        return [*found, Finding(what, False, f"no answer within {patience_s:g} s: {_address(destination)}")]
    except Exception as error:  # whatever a kind's library raises: it can't be reached, and this says why
        return [*found, Finding(what, False, without_credentials(str(error)) or type(error).__name__)]
    return [*found, Finding(f"{what}: {said}", True)]


async def _ask(destination: Destination) -> str:
    kind: Kind = find_kind(destination.kind)(destination)
    try:
        return await kind.check()
    finally:
        with contextlib.suppress(Exception):  # what it found is what counts
            await asyncio.wait_for(kind.close(), CLOSE_PATIENCE_S)


def _address(destination: Destination) -> str:
    address: str = find_kind(destination.kind)(destination).address
    return address


def _ledger(config: Config) -> Finding:
    path = config.ledger.location
    try:
        if there_is(path):
            connect(path, readonly=True).close()  # raises where an earlier version wrote it: that is left as it is
        if wrong := server_problems(path):
            return Finding(f"ledger: {path}", False, "; ".join(wrong))
        with opened(path) as db:
            beside.check_writable(db)
        if (why := unfit(path)) is not None:
            return Finding(f"ledger: {path}", False, f"a service could not use it: {why}")
    except LedgerBehind as error:
        return Finding("ledger", False, str(error), is_warning=True)
    except LedgerError as error:
        return Finding("ledger", False, str(error))
    return Finding(f"ledger: {path} can be written", True)
