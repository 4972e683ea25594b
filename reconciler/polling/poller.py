"""Polls one project: reads each of its sources from where its coverage ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from reconciler.config.models import Reconcile
from reconciler.events import times
from reconciler.events.intervals import Interval, uncovered
from reconciler.events.times import MINUTE, Millis
from reconciler.ledger.errors import LedgerDamaged, LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.polling.counts import Counts
from reconciler.polling.hook_monitor import HookMonitor
from reconciler.polling.projects import Projects
from reconciler.polling.threads import in_thread
from reconciler.polling.watchlist import FAILED, in_words
from reconciler.polling.window_reader import WindowReader
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, NoHook, SourceError, Stopped, SwitchedOff, TokenRefused
from reconciler.sources.hook_log import HookLog
from reconciler.sources.hooks import Hook
from reconciler.sources.project_events import ProjectEvents
from reconciler.sources.source import Project, Source
from reconciler.sources.table import SOURCES, subscribed

REFUSED_PAUSE = Millis(15 * MINUTE)
"""How long a source that GitLab refuses, or that is switched off, is left alone. The Events API is not: without it,
little is known.
"""

log = structlog.get_logger(__name__)


class Poller:
    """Polls projects, at most `reconcile.concurrency` at a time."""

    def __init__(
        self,
        config: Reconcile,
        *,
        client: Client,
        sources: dict[str, Source],
        projects: Projects,
        monitor: HookMonitor,
        reader: WindowReader,
        ledger: Ledger,
    ) -> None:
        self._config = config
        self._client = client
        self._sources = sources
        self._projects = projects
        self._monitor = monitor
        self._reader = reader
        self._coverage = ledger.coverage
        self._slots = asyncio.Semaphore(config.concurrency)
        self._polling: set[int | str] = set()
        self._refused: dict[tuple[int, str], tuple[float, Exception]] = {}

    async def poll(self, name: int | str) -> Counts | None:
        """Read what happened in a project since the last covered time, including downtime.

        Returns None if another poll of this project is going on. Never raises: an error is logged, noted in the
        ledger and returned, and the next poll begins where coverage ends.
        """
        return await self._guarded(name, self._poll(name), self._note_failure)

    async def poll_group(self, group: Project) -> Counts | None:
        """Read the log of a group's own webhooks, if any deliver to us. Otherwise as `poll`."""
        return await self._guarded(group.id, self._poll_group(group), self._note_poll)

    async def _guarded(
        self,
        name: int | str,
        poll: Coroutine[Any, Any, Counts],
        note: Callable[[int | str, Exception], Awaitable[None]],
    ) -> Counts | None:
        if name in self._polling:
            poll.close()
            return None
        self._polling.add(name)
        try:
            async with self._slots:
                return await poll
        except Stopped:
            return None
        except Exception as error:  # whatever it is, one project's error must not end the others' polls
            if isinstance(error, (SourceError, LedgerError)):
                log.warning("a project can't be polled", project=name, error=str(error))
            else:
                log.exception("a poll failed unexpectedly", project=name)
            await note(name, error)
            return Counts(error=in_words(error)[1])
        finally:
            self._polling.discard(name)

    def sources_of(self, name: int | str, project: Project, hooks: list[Hook] | None) -> list[Source]:
        """The sources that are read for a project, in this order.

        Those that the config names; otherwise those of the events that its webhooks subscribe to; otherwise all.
        """
        wanted: set[str] = set(self._projects.sources_of(name) or ())
        if not wanted:
            triggers = {trigger for hook in hooks or [] for trigger in hook.triggers}
            wanted = set(subscribed(triggers)) if triggers else {entry.name for entry in SOURCES}
        return [source for source in self._sources.values() if source.name in wanted]

    def newest(self) -> Millis:
        """Up to when to read: younger events than `reconcile.grace_period` may not be visible yet.

        If GitLab's clock is behind ours, its clock counts: coverage ahead of it would hide events that are still to
        happen.
        """
        return Millis(times.now() - self._client.behind - self._config.grace_period)

    async def _poll(self, name: int | str) -> Counts:
        project = await self._projects.find(name)
        hooks = await self._monitor.look(project)
        sources = self.sources_of(name, project, hooks)
        until = self.newest()
        await self._watch(project, sources, until)
        counts, troubles, read = Counts(), dict[str, Exception](), False
        for source in sources:
            not_before, error = self._refused.get((project.id, source.name), (0.0, None))
            if error is None or time.monotonic() >= not_before:
                try:
                    counts = counts.plus(await self._poll_source(project, source, until))
                    error, read = None, True
                    self._refused.pop((project.id, source.name), None)
                except LedgerDamaged as raised:  # perhaps only this source's rows: the others can be read
                    error = raised
                    await self._source_failed(project, source, error)
                except (Stopped, LedgerError):
                    raise
                except Exception as raised:  # whatever it is, the other sources are read
                    error = raised
                    await self._source_failed(project, source, error)
            if error is not None:
                troubles[source.name] = error
        if counts.new:  # a webhook should have reported it: is it disabled?
            hooks = await self._monitor.look(project, fresh=True)
        await self._monitor.enable(project, hooks or [])
        if troubles and (ProjectEvents.name in troubles or not read):
            raise troubles.get(ProjectEvents.name) or next(iter(troubles.values()))
        await self._note_poll(project.id, None)
        await self._projects.watchlist.read(self._projects.watched_as(name), answered=counts.requests > 0)
        return counts

    async def _source_failed(self, project: Project, source: Source, error: Exception) -> None:
        """Note the error, and raise it if the other sources would fail too."""
        await self._note_trouble(project, source, error)
        if isinstance(error, (GitLabRefused, NoHook)) and not isinstance(error, TokenRefused):
            if source.name != ProjectEvents.name:
                self._refused[project.id, source.name] = (time.monotonic() + REFUSED_PAUSE / 1000, error)
        elif await self._projects.watchlist.whole(error) is not None or not await self._answers(project):
            raise error

    async def _answers(self, project: Project) -> bool:
        """Whether GitLab returns the project at all."""
        try:
            await in_thread(lambda: self._client.project(project.id))
        except Stopped:
            raise
        except Exception as error:  # whatever it is, it was no answer
            if not isinstance(error, SourceError):
                log.exception("a poll failed unexpectedly", project=project.path)
            return False
        return True

    async def _poll_group(self, group: Project) -> Counts:
        hooks = await self._monitor.look(group)
        if not hooks:  # the group has none: its projects may have webhooks of their own
            return Counts()
        source, until = self._sources[HookLog.name], self.newest()
        await self._coverage.note_path(group.id, str(group.path))
        await self._watch(group, [source], until)
        try:
            counts = await self._poll_source(group, source, until)
        except (Stopped, LedgerError):
            raise
        except Exception as error:  # whatever it is, it is noted for the group; `_guarded` reports it
            await self._note_trouble(group, source, error)
            raise
        await self._note_poll(group.id, None)
        return counts

    async def _poll_source(self, project: Project, source: Source, until: Millis) -> Counts:
        since = self._coverage.watched_since(project.id, source.name)
        if since is None:
            return Counts()
        since = max(since, Millis(times.now() - source.keeps_for))
        covered = self._coverage.covered(project.id, source.name)
        counts = Counts()
        for gap in uncovered(covered, Interval(since, until)):
            window = Interval(max(since, Millis(gap.start - self._config.overlap)), gap.end)
            counts = counts.plus(await self._reader.read(project, source, window, purpose="poll"))
        await self._coverage.note_read(project.id, source.name, times.now())
        return counts

    async def _watch(self, project: Project, sources: list[Source], until: Millis) -> None:
        """From its first poll on, a source is watched: what it has not read from then on is a gap."""
        names = [source.name for source in sources]
        if self._coverage.watched_sources(project.id) == set(names):
            return
        since = Millis(until - self._config.overlap)
        await self._coverage.watch_sources(project.id, names, since=since, until=until)

    async def _note_trouble(self, project: Project, source: Source, error: Exception) -> None:
        trouble, text = in_words(error)
        about = log.bind(project=project.path, source=source.name)
        if not isinstance(error, SwitchedOff):
            about.warning("a source can't be read", error=text, exc_info=error if trouble == FAILED else None)
        elif (before := self._coverage.source_state(project.id, source.name)) is None or before.trouble != trouble:
            about.info("a source has nothing to read", reason=text)
        await self._coverage.note_trouble(project.id, source.name, trouble, text, times.now())

    async def _note_failure(self, name: int | str, error: Exception) -> None:
        """Note the error of a project that can't be read, so that status, dashboard and alerts can show it."""
        project_id = self._projects.id_of(name)
        if project_id is not None:
            await self._note_poll(project_id, error)
        await self._projects.watchlist.failed(self._projects.watched_as(name), error)

    async def _note_poll(self, project_id: int | str, error: Exception | None) -> None:
        """Note how the last poll of a project, or a group, ended. If that fails, it is logged."""
        text, at = None if error is None else in_words(error)[1], times.now()
        try:
            await self._coverage.note_poll(int(project_id), text, at)
        except Exception as also:  # whatever it is, the poll has ended all the same
            is_expected = isinstance(also, LedgerError)
            log.warning("the end of a poll can't be noted", error=str(also), exc_info=None if is_expected else also)
