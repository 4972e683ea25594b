"""Notes in the ledger whether each name in the config can be read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial

import structlog

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.ledger.coverage.watched import Name
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.polling.threads import in_thread
from reconciler.sources import answers
from reconciler.sources.client import Client
from reconciler.sources.errors import GitLabRefused, SourceError, Stopped, TokenRefused, Unavailable

FAILED = "failed"
"""The trouble of what failed unexpectedly."""
PROBE_S = 5.0
"""How long the answer "GitLab does not answer" is reused."""

log = structlog.get_logger(__name__)


def names(config: Config) -> list[Name]:
    """The names of what the config wants to be read, except GitLab itself."""
    groups = [Name("group", str(group)) for group in config.groups]
    return groups + [Name("project", str(entry.project)) for entry in config.projects]


def in_words(error: Exception) -> tuple[str, str]:
    """An error as the ledger keeps it: a word and a sentence."""
    if isinstance(error, SourceError):
        return error.trouble, str(error)
    if isinstance(error, LedgerError):
        return "ledger", str(error)
    return FAILED, f"{type(error).__name__}: {error} (unexpected: the log has more)"[:500]


class Watchlist:
    """Notes what could be read and what could not. `probe` asks, without retries, whether GitLab answers at all."""

    def __init__(self, config: Config, *, probe: Client, ledger: Ledger) -> None:
        self._gitlab = Name("gitlab", config.gitlab.url)
        self._names = names(config)
        self._probe = probe
        self._ledger = ledger.watchlist
        self._probing = asyncio.Lock()
        self._probed_at = -PROBE_S
        self._found: SourceError | None = None

    def stop(self) -> None:
        """Make no more requests."""
        self._probe.stop()

    async def begin(self) -> dict[str, dict[int, str | None]]:
        """Watch what the config names, and nothing else.

        Returns the projects that were below each group when it was last read. Raises LedgerError if the ledger can't
        be written; then call it again.
        """
        everything = [self._gitlab, *self._names]
        return await self._ledger.set_names(everything, times.now())

    async def members(self, group: int | str, paths: Mapping[int, str | None]) -> None:
        """These are all the projects below a group."""
        await self._ledger.set_members(str(group), paths, times.now())

    async def found(self, one: Name, project_id: int) -> None:
        """GitLab has said which project or group a name stands for."""
        await self._ledger.note_found(one, project_id)

    async def read(self, one: Name, *, answered: bool = True) -> None:
        """It was read. `answered`: GitLab was asked for it, and answered."""
        since = await self._ledger.note_read(one, times.now(), answered=answered)
        if since is not None:
            log.info("can be read again", kind=one.kind, name=one.name, since=since)

    async def failed(self, one: Name, error: Exception) -> None:
        """It can't be read: note why, and whether anything can be read at all. Never raises."""
        try:
            whole = await self.whole(error)
        except Stopped:
            return
        everything = None if whole is None else (self._gitlab, in_words(whole))
        answered = not isinstance(error, LedgerError)
        try:
            await self._ledger.note_trouble(
                one, in_words(error), times.now(), everything=everything, answered=answered
            )
        except Exception as also:  # whatever it is, whoever reports a trouble goes on
            log.warning(
                "what can't be read can't be noted in the ledger",
                name=one.name,
                error=str(also),
                exc_info=None if isinstance(also, LedgerError) else also,
            )

    async def whole(self, error: Exception) -> SourceError | None:
        """After something could not be read: what keeps everything from being read; None if GitLab answers.

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
        """Request what any token may read; if a scope was missing, what any token with our scope may read."""
        try:
            self._probe.get("/version", answers.Version)
            if scope:
                own = {"membership": "true", "simple": "true", "per_page": 1}
                next(self._probe.pages("/projects", answers.Thing, own), None)
        except Stopped:
            raise
        except GitLabRefused as error:  # a refusal of a valid token is an answer
            return error if isinstance(error, TokenRefused) else None
        except SourceError as error:
            return error
        except Exception as error:  # whatever it is, it was no answer of GitLab's
            return Unavailable(f"GET /version: {type(error).__name__}: {error}")
        return None
