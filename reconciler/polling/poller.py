"""Polling one project: each of its sources is read from where its coverage ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from sqlite_utils import Database

from reconciler.config.models import Reconcile
from reconciler.events import times
from reconciler.events.times import MINUTE, Millis
from reconciler.ledger.coverage import intervals, runs, source_state
from reconciler.ledger.coverage.intervals import Interval
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.intake.writer import Writer
from reconciler.polling.counts import Tally
from reconciler.polling.hook_monitor import HookKeeper
from reconciler.polling.projects import Projects
from reconciler.polling.reader import Reader
from reconciler.polling.threads import in_thread
from reconciler.polling.watchlist import FAILED, in_words
from reconciler.sources.client import Client
from reconciler.sources.errors import NoHook, Refused, SourceError, Stopped, SwitchedOff, TokenRefused
from reconciler.sources.hook_log import HookLog
from reconciler.sources.hooks import Hook
from reconciler.sources.project_events import ProjectEvents
from reconciler.sources.source import Project, Source
from reconciler.sources.table import SOURCES, subscribed

REFUSED_PAUSE = Millis(15 * MINUTE)
"""How long a source that GitLab refuses, or that is switched off, is left alone. Not the Events API: without it
little is known.
"""

log = structlog.get_logger(__name__)


class Poller:
    """Polls projects; at most `config.concurrency` at a time."""

    def __init__(
        self,
        config: Reconcile,
        *,
        client: Client,
        sources: dict[str, Source],
        projects: Projects,
        keeper: HookKeeper,
        reader: Reader,
        db: Database,
        writer: Writer,
    ) -> None:
        self._config = config
        self._client = client
        self._sources = sources
        self._projects = projects
        self._keeper = keeper
        self._reader = reader
        self._db = db
        self._writer = writer
        self._slots = asyncio.Semaphore(config.concurrency)
        self._polling: set[int | str] = set()
        self._refused: dict[tuple[int, str], tuple[float, Exception]] = {}

    async def poll(self, name: int | str) -> Tally | None:
        """Read what happened to a project since the last covered time, downtime included.

        None where a poll of this project is still going on. Never raises: what went wrong is logged, noted in
        the ledger and returned, and the next poll begins where coverage ends.
        """
        return await self._guarded(name, self._poll(name), self._note_failure)

    async def poll_group(self, group: Project) -> Tally | None:
        """Read the log of a group's own webhooks, where it has any that deliver here. As `poll` otherwise."""
        return await self._guarded(group.id, self._poll_group(group), self._note_poll)

    async def _guarded(
        self,
        name: int | str,
        poll: Coroutine[Any, Any, Tally],
        note: Callable[[int | str, Exception], Awaitable[None]],
    ) -> Tally | None:
        if name in self._polling:
            poll.close()
            return None
        self._polling.add(name)
        try:
            async with self._slots:
                return await poll
        except Stopped:
            return None
        except Exception as error:  # whatever it is, one project's trouble must not end the others' polls
            if isinstance(error, (SourceError, LedgerError)):
                log.warning("a project can't be polled", project=name, error=str(error))
            else:
                log.exception("a poll failed in an unforeseen way", project=name)
            await note(name, error)
            return Tally(error=in_words(error)[1])
        finally:
            self._polling.discard(name)

    def sources_of(self, name: int | str, project: Project, hooks: list[Hook] | None) -> list[Source]:
        """The sources that are asked for a project, in the order in which they are read.

        Those that the config names; else those that its webhooks are subscribed to; else all.
        """
        wanted: set[str] = set(self._projects.sources_of(name) or ())
        if not wanted:
            triggers = {trigger for hook in hooks or [] for trigger in hook.triggers}
            wanted = set(subscribed(triggers)) if triggers else {entry.name for entry in SOURCES}
        return [source for source in self._sources.values() if source.name in wanted]

    def newest(self) -> Millis:
        """Up to when reading makes sense: what is younger than the settle time may still be on its way.

        Told by GitLab's clock where that is behind ours: coverage that ran ahead of GitLab's own time would hide
        what is still to happen.
        """
        return Millis(times.now() - self._client.behind - self._config.grace_period)

    async def _poll(self, name: int | str) -> Tally:
        project = await self._projects.find(name)
        hooks = await self._keeper.look(project)
        sources = self.sources_of(name, project, hooks)
        until = self.newest()
        await self._watch(project, sources, until)
        tally, troubles, read = Tally(), dict[str, Exception](), False
        for source in sources:
            not_before, error = self._refused.get((project.id, source.name), (0.0, None))
            if error is None or time.monotonic() >= not_before:
                try:
                    tally = tally.plus(await self._poll_source(project, source, until))
                    error, read = None, True
                    self._refused.pop((project.id, source.name), None)
                except (Stopped, LedgerError):
                    raise
                except Exception as raised:
                    error = raised
                    await self._source_failed(project, source, error)
            if error is not None:
                troubles[source.name] = error
        if tally.new:  # what a webhook should have told: is it off?
            hooks = await self._keeper.look(project, fresh=True)
        await self._keeper.switch_on(project, hooks or [])
        if troubles and (ProjectEvents.name in troubles or not read):
            raise troubles.get(ProjectEvents.name) or next(iter(troubles.values()))
        await self._note_poll(project.id, None)
        await self._projects.watchlist.read(self._projects.watched_as(name), answered=tally.requests > 0)
        return tally

    async def _source_failed(self, project: Project, source: Source, error: Exception) -> None:
        """Note it, and raise it where the other sources would fare no better."""
        await self._note_trouble(project, source, error)
        if isinstance(error, (Refused, NoHook)) and not isinstance(error, TokenRefused):
            if source.name != ProjectEvents.name:
                self._refused[project.id, source.name] = (time.monotonic() + REFUSED_PAUSE / 1000, error)
        elif await self._projects.watchlist.whole(error) is not None or not await self._answers(project):
            raise error

    async def _answers(self, project: Project) -> bool:
        """Whether GitLab shows a project at all."""
        try:
            await in_thread(lambda: self._client.project(project.id))
        except Stopped:
            raise
        except Exception:  # whatever it is, it does not
            return False
        return True

    async def _poll_group(self, group: Project) -> Tally:
        hooks = await self._keeper.look(group)
        if not hooks:  # its projects have webhooks of their own, or none
            return Tally()
        source, until = self._sources[HookLog.name], self.newest()
        await self._writer.run(lambda db: runs.note_path(db, group.id, str(group.path)))
        await self._watch(group, [source], until)
        try:
            tally = await self._poll_source(group, source, until)
        except (Stopped, LedgerError):
            raise
        except Exception as error:
            await self._note_trouble(group, source, error)
            raise
        await self._note_poll(group.id, None)
        return tally

    async def _poll_source(self, project: Project, source: Source, until: Millis) -> Tally:
        since = source_state.watched_since(self._db, project.id, source.name)
        if since is None:
            return Tally()
        since = max(since, Millis(times.now() - source.keeps_for))
        covered = intervals.covered(self._db, project.id, source.name)
        tally = Tally()
        for gap in intervals.gaps(covered, Interval(since, until)):
            window = Interval(max(since, Millis(gap.start - self._config.overlap)), gap.end)
            tally = tally.plus(await self._reader.read(project, source, window, purpose="poll"))
        await self._writer.run(lambda db: source_state.note_read(db, project.id, source.name, times.now()))
        return tally

    async def _watch(self, project: Project, sources: list[Source], until: Millis) -> None:
        """From its first poll on, a source answers for completeness."""
        names = [source.name for source in sources]
        if source_state.watched_sources(self._db, project.id) == set(names):
            return
        since = Millis(until - self._config.overlap)

        def watch(db: Database) -> None:
            source_state.unwatch(db, project.id, keep=names, until=until)
            for name in names:
                source_state.watch(db, project.id, name, since)

        await self._writer.run(watch)

    async def _note_trouble(self, project: Project, source: Source, error: Exception) -> None:
        trouble, text = in_words(error)
        about = log.bind(project=project.path, source=source.name)
        if not isinstance(error, SwitchedOff):
            about.warning("a source can't be read", error=text, exc_info=error if trouble == FAILED else None)
        elif (
            before := source_state.standing(self._db, project.id, source.name)
        ) is None or before.trouble != trouble:
            about.info("a source has nothing to read", why=text)
        await self._writer.run(
            lambda db: source_state.note_trouble(db, project.id, source.name, trouble, text, times.now())
        )

    async def _note_failure(self, name: int | str, error: Exception) -> None:
        """A project that can't be read has its error noted where every face finds it."""
        project_id = self._projects.id_of(name)
        if project_id is not None:
            await self._note_poll(project_id, error)
        await self._projects.watchlist.failed(self._projects.watched_as(name), error)

    async def _note_poll(self, project_id: int | str, error: Exception | None) -> None:
        """How a project's, or a group's, last poll ended. What can't be noted is in the log."""
        text, at = None if error is None else in_words(error)[1], times.now()
        try:
            await self._writer.run(lambda db: runs.note_poll(db, int(project_id), text, at))
        except Exception as also:  # whatever it is, the poll has ended all the same
            foreseen = isinstance(also, LedgerError)
            log.warning("how a poll ended can't be noted", error=str(also), exc_info=None if foreseen else also)
