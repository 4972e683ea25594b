"""The projects that are watched: those that the config names, and all below the groups that it names."""

from __future__ import annotations

import time
from functools import partial

import structlog

from reconciler.config.models import Config, SourceName
from reconciler.events import times
from reconciler.events.times import HOUR
from reconciler.ledger import runs, standing
from reconciler.ledger.writer import Writer
from reconciler.reconcile.threads import in_thread
from reconciler.sources.client import Client
from reconciler.sources.errors import Refused, SourceError, Stopped
from reconciler.sources.groups import find_group, projects_below
from reconciler.sources.source import Project

REMEMBERED = HOUR
"""For how long a project's name, description and the like are taken to be as they were."""

log = structlog.get_logger(__name__)


class Projects:
    """Knows which projects to watch, and finds each by the name that the config gives it."""

    def __init__(self, config: Config, *, client: Client, writer: Writer) -> None:
        self._client = client
        self._writer = writer
        self._named: dict[int | str, list[SourceName] | None] = {p.project: p.sources for p in config.projects}
        self._groups = config.groups
        self._sources = config.reconcile.sources
        self._known: dict[int | str, tuple[float, Project]] = {}
        self._below: dict[int | str, dict[int, Project]] = {}
        self.groups: dict[int | str, Project] = {}
        """The configured groups themselves, by the config's names: they can have webhooks of their own."""

    @property
    def names(self) -> list[int | str]:
        """Every watched project once: by the config's own name for it, else by its id."""
        named = {known.id for name in self._named if (known := self._remembered(name)) is not None}
        below = {ident for members in self._below.values() for ident in members}
        return [*self._named, *sorted(below - named)]

    def sources_of(self, name: int | str) -> list[SourceName] | None:
        """The sources that the config wants for a project; None where it leaves that to the webhook."""
        return self._named.get(name) or self._sources

    def id_of(self, name: int | str) -> int | None:
        """A project's id, as far as it is known without asking."""
        known = self._remembered(name)
        return known.id if known is not None else name if isinstance(name, int) else None

    async def find(self, name: int | str) -> Project:
        """The project of a name. GitLab is asked once an hour, and the ledger remembers the path.

        Raises SourceError.
        """
        known = self._known.get(name)
        if known is not None and time.monotonic() - known[0] < REMEMBERED / 1000:
            return known[1]
        project = await in_thread(lambda: self._client.project(name))
        self._remember(name, project)
        await self._writer.run(lambda db: runs.note_path(db, project.id, str(project.path)))
        return project

    async def refresh_groups(self) -> None:
        """Ask each group for its projects. Those that are gone (deleted, archived, moved away) are watched no more.

        Never raises: a group that can't be read keeps the projects that it had.
        """
        for group in self._groups:
            before = self._below.get(group, {})
            try:
                self.groups[group] = await in_thread(partial(find_group, self._client, group))
                found = await in_thread(partial(projects_below, self._client, group))
            except Stopped:
                return
            except Refused as error:
                log.error("a group can't be read", group=group, error=str(error))
                continue
            except SourceError as error:
                log.warning("a group can't be read", group=group, error=str(error))
                continue
            self._below[group] = {project.id: project for project in found}
            for project in found:
                self._remember(project.id, project)
                if project.id not in before:
                    log.info("a project is watched", project=project.path, group=group)
            for ident in before.keys() - self._below[group].keys():
                await self._let_go(before[ident], group)

    async def _let_go(self, project: Project, group: int | str) -> None:
        if project.id in self.names or any(project.id == self.id_of(name) for name in self._named):
            return
        log.info("a project is watched no more", project=project.path, group=group)
        self._known.pop(project.id, None)
        await self._writer.run(lambda db: standing.unwatch(db, project.id, until=times.now()))

    def _remember(self, name: int | str, project: Project) -> None:
        self._known[name] = (time.monotonic(), project)

    def _remembered(self, name: int | str) -> Project | None:
        known = self._known.get(name)
        return None if known is None else known[1]
