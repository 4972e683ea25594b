"""Keeping in the ledger how reading each name in the config goes: what nobody could read is known there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial

import structlog
from sqlite_utils import Database

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.ledger.coverage import watched
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.intake.writer import Writer
from reconciler.polling.threads import in_thread
from reconciler.sources import answers
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, SourceError, Stopped, TokenRefused, Unavailable

FAILED = "failed"
"""The trouble of what raised something that nobody foresaw."""
PROBE_S = 5.0
"""For so long "GitLab does not answer" is the answer for everybody who asks."""
BATCH = 1000

log = structlog.get_logger(__name__)


def names(config: Config) -> list[Name]:
    """What the config wants to be read, but for GitLab itself."""
    groups = [Name("group", str(group)) for group in config.groups]
    return groups + [Name("project", str(entry.project)) for entry in config.projects]


def in_words(error: Exception) -> tuple[str, str]:
    """An error as the ledger keeps it: a word, and what is wrong."""
    if isinstance(error, SourceError):
        return error.trouble, str(error)
    if isinstance(error, LedgerError):
        return "ledger", str(error)
    return FAILED, f"{type(error).__name__}: {error} (nobody foresaw this: the log has more)"[:500]


class Watchlist:
    """Notes what could be read and what could not. `probe` asks whether GitLab answers at all, without patience."""

    def __init__(self, config: Config, *, probe: Client, writer: Writer) -> None:
        self._gitlab = Name("gitlab", config.gitlab.url)
        self._names = names(config)
        self._probe = probe
        self._writer = writer
        self._probing = asyncio.Lock()
        self._probed_at = -PROBE_S
        self._found: SourceError | None = None

    def stop(self) -> None:
        """Ask nothing more."""
        self._probe.stop()

    async def begin(self) -> dict[str, dict[int, str | None]]:
        """Watch what the config names, and nothing else. Returns the projects that were below each group when it was
        last read. Raises LedgerError where the ledger can't be written: begin again.
        """
        everything = [self._gitlab, *self._names]
        groups = [one.name for one in self._names if one.kind == "group"]
        await self._writer.run(lambda db: watched.sync(db, everything, times.now()))
        return await self._writer.run(lambda db: {group: watched.members(db, group) for group in groups})

    async def members(self, group: int | str, paths: Mapping[int, str | None]) -> None:
        """These are all the projects below a group."""
        rows = list(paths.items())
        for start in range(0, len(rows), BATCH):  # others write in between
            some = dict(rows[start : start + BATCH])
            await self._writer.run(lambda db, some=some: watched.add_members(db, str(group), some, times.now()))  # type: ignore[misc]
        await self._writer.run(lambda db: watched.keep_members(db, str(group), paths, times.now()))

    async def found(self, one: Name, project_id: int) -> None:
        """GitLab has told which project or group a name stands for."""
        await self._writer.run(lambda db: watched.note_found(db, one, project_id))

    async def read(self, one: Name, *, answered: bool = True) -> None:
        """It was read. Where GitLab had not to be asked, that says nothing of whether it answers."""
        since = await self._writer.run(lambda db: watched.note_read(db, one, times.now(), answered=answered))
        if since is not None:
            log.info("can be read again", kind=one.kind, name=one.name, since=since)

    async def failed(self, one: Name, error: Exception) -> None:
        """It can't be read: note why, and whether that is so of everything. Never raises."""
        trouble, text = in_words(error)
        try:
            whole = await self.whole(error)
        except Stopped:
            return
        now = times.now()

        def note(db: Database) -> None:
            watched.note_trouble(db, one, trouble, text, now, by_gitlab=whole is not None)
            if whole is not None:
                watched.note_trouble(db, self._gitlab, *in_words(whole), now)
            elif not isinstance(error, LedgerError):
                watched.note_answer(db, now)

        try:
            await self._writer.run(note)
        except Exception as also:  # whatever it is, who reports a trouble goes on
            log.warning(
                "what can't be read can't be noted in the ledger",
                name=one.name,
                error=str(also),
                exc_info=None if isinstance(also, LedgerError) else also,
            )

    async def whole(self, error: Exception) -> SourceError | None:
        """What keeps all of GitLab from being read, where something could not be; None where it answers.

        Raises Stopped.
        """
        if isinstance(error, LedgerError):
            return None
        async with self._probing:
            if self._found is None or time.monotonic() - self._probed_at >= PROBE_S:
                self._found = await in_thread(partial(self._ask, scope=isinstance(error, TokenRefused)))
                self._probed_at = time.monotonic()
            return self._found

    def _ask(self, *, scope: bool) -> SourceError | None:
        """Ask for what every token may read; where a scope was missing, for what every token of our scope may."""
        try:
            self._probe.get("/version", answers.Version)
            if scope:
                own = {"membership": "true", "simple": "true", "per_page": 1}
                next(self._probe.pages("/projects", answers.Thing, own), None)
        except Stopped:
            raise
        except GitLabRefused as error:  # who refuses this to a token that is good, answers
            return error if isinstance(error, TokenRefused) else None
        except SourceError as error:
            return error
        except Exception as error:  # whatever it is, GitLab does not answer so
            return Unavailable(f"GET /version: {type(error).__name__}: {error}")
        return None
