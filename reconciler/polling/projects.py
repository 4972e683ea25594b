"""The projects that are watched: those that the config names, and all projects below the groups that it names."""

from __future__ import annotations

import logging
import time
from functools import partial

import structlog

from reconciler.config.models import Config, SourceName
from reconciler.events.times import HOUR
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.polling.threads import in_thread
from reconciler.polling.watchlist import Watchlist
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, SourceError, Stopped
from reconciler.sources.groups import find_group, projects_below
from reconciler.sources.source import Project

REMEMBERED = HOUR
"""For how long a project's name, description and other details are reused."""

log = structlog.get_logger(__name__)


class Projects:
    """Knows which projects to watch, and finds each by the name that the config gives it."""

    def __init__(self, config: Config, *, client: Client, ledger: Ledger, watchlist: Watchlist) -> None:
        self.watchlist = watchlist
        self._client = client
        self._ledger = ledger
        self._named: dict[int | str, list[SourceName] | None] = {p.project: p.sources for p in config.projects}
        self._groups = config.groups
        self._sources = config.reconcile.sources
        self._known: dict[int | str, tuple[float, Project]] = {}
        self._below: dict[int | str, dict[int, Project]] = {}
        self.groups: dict[int | str, Project] = {}
        """The groups themselves, by their names in the config: they can have webhooks of their own."""
        self.unread: dict[int | str, Exception | None] = dict.fromkeys(config.groups)
        """The groups that could not be read last time, and why. At first these are all groups."""

    @property
    def names(self) -> list[int | str]:
        """Every watched project once: by its name in the config, or else by its id."""
        named = {known.id for name in self._named if (known := self._remembered(name)) is not None}
        below = {ident for members in self._below.values() for ident in members}
        return [*self._named, *sorted(below - named)]

    def sources_of(self, name: int | str) -> list[SourceName] | None:
        """The sources that the config sets for a project; None if it leaves that to the webhook."""
        return self._named.get(name) or self._sources

    def id_of(self, name: int | str) -> int | None:
        """A project's id, if it is known without a request."""
        known = self._remembered(name)
        return known.id if known is not None else name if isinstance(name, int) else None

    def watched_as(self, name: int | str) -> Name:
        """The name under which the ledger watches one of `names`."""
        return Name("project" if name in self._named else "member", str(name))

    async def begin(self) -> None:
        """Watch what the config names. Until a group is read, its projects are those that it had last time."""
        for group, paths in (await self.watchlist.begin()).items():
            named = next(one for one in self._groups if str(one) == group)
            self._below.setdefault(named, {ident: Project(ident, path) for ident, path in paths.items()})

    async def find(self, name: int | str) -> Project:
        """The project of a name. GitLab is asked once an hour, and the ledger keeps the path.

        Raises SourceError.
        """
        known = self._known.get(name)
        if known is not None and time.monotonic() - known[0] < REMEMBERED / 1000:
            return known[1]
        project = await in_thread(lambda: self._client.project(name))
        self._remember(name, project)
        is_former = _is_former(name, project)
        former = str(name) if is_former else None
        await self._ledger.coverage.note_path(project.id, str(project.path), former=former)
        if (known is None or known[1].path != project.path) and is_former:
            log.warning(
                "a project was renamed: its old path in the config works as long as GitLab redirects it",
                named=name, now=project.path, id=project.id,
            )  # fmt: skip
        await self.watchlist.found(self.watched_as(name), project.id)
        return project

    async def refresh_groups(self, *, only_unread: bool = False) -> None:
        """Read the projects of each group, or only of each that could not be read last time.

        Projects that are gone (deleted, archived, moved away) are no longer watched. Never raises: a group that can't
        be read keeps its projects, and is in `unread`.
        """
        for group in self._groups:
            if only_unread and group not in self.unread:
                continue
            try:
                await self._refresh(group)
            except Stopped:
                return
            except Exception as error:  # whatever it is, the other groups are read
                self.unread[group] = error
                is_expected = isinstance(error, (SourceError, LedgerError))
                log.log(
                    logging.ERROR if isinstance(error, GitLabRefused) or not is_expected else logging.WARNING,
                    "a group can't be read", group=group, error=str(error), exc_info=None if is_expected else error,
                )  # fmt: skip
                await self.watchlist.failed(Name("group", str(group)), error)
            else:
                self.unread.pop(group, None)

    async def _refresh(self, group: int | str) -> None:
        place = await in_thread(partial(find_group, self._client, group))
        found = await in_thread(partial(projects_below, self._client, group))
        await self.watchlist.found(Name("group", str(group)), place.id)
        await self.watchlist.members(group, {project.id: project.path for project in found})
        before = self._below.get(group, {})
        self.groups[group] = place
        self._below[group] = {project.id: project for project in found}
        for project in found:
            self._remember(project.id, project)
            if project.id not in before:
                log.info("a project is watched", project=project.path, group=group)
        still = set(self.names) | {self.id_of(name) for name in self._named}
        for ident in before.keys() - still:
            log.info("a project is no longer watched", project=before[ident].path, group=group)
            self._known.pop(ident, None)
        await self.watchlist.read(Name("group", str(group)))

    def _remember(self, name: int | str, project: Project) -> None:
        self._known[name] = (time.monotonic(), project)

    def _remembered(self, name: int | str) -> Project | None:
        known = self._known.get(name)
        return None if known is None else known[1]


def _is_former(name: int | str, project: Project) -> bool:
    """Whether the config names a project by a former path. GitLab's paths ignore case."""
    return isinstance(name, str) and not name.isdigit() and name.lower() != str(project.path).lower()
