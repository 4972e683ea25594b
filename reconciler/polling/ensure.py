"""`hooks ensure`: our webhook in every project, as the config wants it."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import msgspec

from reconciler.config.models import HookConfig
from reconciler.polling.reconciling import Reconciling
from reconciler.polling.threads import in_thread
from reconciler.sources.errors import SourceError, Stopped
from reconciler.sources.hook_settings import Difference, differences, restrictions, settings, unsigned
from reconciler.sources.hooks import Hooks
from reconciler.sources.source import Project


class Ensured(msgspec.Struct, frozen=True):
    """The result for one webhook of one project. Secrets are set again each time, since GitLab does not show them.
    `warnings` name other settings that keep events from us.
    """

    project: str
    hook: str
    did: Literal["created", "updated", "unchanged", "failed"]
    url: str | None = None
    differences: list[Difference] = []
    warnings: list[str] = []
    error: str | None = None


async def ensure(polling: Reconciling, name: int | str, hook: HookConfig, *, dry_run: bool) -> Ensured:
    """Create or update a project's webhook. With `dry_run` nothing is changed. Raises nothing but Stopped."""
    shown_as = str(name)
    try:
        project = await polling.projects.find(name)
        shown_as = project.path or shown_as
        return await ensure_in(project, hook, hooks=polling.hooks, dry_run=dry_run)
    except Stopped:
        raise
    except SourceError as error:
        return Ensured(shown_as, hook.name, "failed", error=str(error))


async def ensure_in(project: Project, hook: HookConfig, *, hooks: Hooks, dry_run: bool) -> Ensured:
    """Create or update the webhook of a project that was found.

    Raises SourceError.
    """
    there = await in_thread(lambda: hooks.of(project.id, fresh=True))
    mine = [one for one in there if one.name == hook.name]
    url = mine[0].url if mine else hooks.url_of(hook.name)
    if url is None:
        raise SourceError("receiver.url is not set: under which URL does GitLab reach the receiver?")
    wanted = settings(hook, url)
    change: partial[Any]
    if mine:
        found = differences(wanted, mine[0])
        did: Literal["created", "updated", "unchanged"] = "updated" if found else "unchanged"
        change = partial(hooks.update, mine[0], wanted)
    else:
        found, did = differences(wanted, None), "created"
        change = partial(hooks.create, project.id, wanted)
    if not dry_run:
        await in_thread(change)
        mine = [one for one in await in_thread(lambda: hooks.of(project.id, fresh=True)) if one.name == hook.name]
    warnings = restrictions(mine[0]) if mine else []
    trouble = unsigned(hook, mine[0]) if mine and not dry_run else None
    if trouble is not None and hook.token is None:
        raise SourceError(trouble)
    warnings += [] if trouble is None else [trouble]
    return Ensured(project.path or str(project.id), hook.name, did, url, found, warnings)
