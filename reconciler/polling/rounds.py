"""Which projects are polled when: the active ones in every interval, the quiet ones once a round."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog
from sqlite_utils import Database

from reconciler.config.models import Config, Reconcile
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.coverage import runs, source_state
from reconciler.polling.poller import Poller
from reconciler.polling.projects import Projects
from reconciler.polling.threads import in_thread
from reconciler.sources.activity import Activity
from reconciler.sources.errors import NoHook, SourceError, Stopped, SwitchedOff

FEW = 20
"""So many projects are polled one by one in every interval; with more, GitLab is asked first which are active."""

GROUPS_PATIENCE_S = 60.0
"""How long the polls of a start wait for the groups to be read."""
SHOWN = 20
"""So many names stand in one line of the log."""

log = structlog.get_logger(__name__)


def pause(config: Config) -> Millis:
    """How long it is between two polls of a project: where there are many, the quiet ones wait for their turn."""
    many = bool(config.groups) or len(config.projects) > FEW
    return max(config.reconcile.interval, config.reconcile.full_poll_interval) if many else config.reconcile.interval


def expected(config: Config, now: Millis) -> Millis:
    """Up to when a service that polls as it should has read every project."""
    return Millis(now - config.reconcile.grace_period - 2 * pause(config))


class Rounds:
    """Starts polls. `turn` is called once an interval."""

    def __init__(
        self, config: Reconcile, *, poller: Poller, projects: Projects, activity: Activity, db: Database
    ) -> None:
        self._config = config
        self._poller = poller
        self._projects = projects
        self._activity = activity
        self._db = db
        self._looked_at: Millis | None = None
        self._groups_read_at: Millis | None = None
        self._groups: asyncio.Task[None] | None = None
        self._waiting: list[int | str] = []
        self._tasks: set[asyncio.Task[object]] = set()

    async def heal(self) -> None:
        """After a start: every project is polled, as many together as the config allows."""
        await self._projects.begin()
        self._looked_at = times.now()
        self._groups = asyncio.create_task(self._read_groups())
        # GitLab's own bodies first: then nothing need be rebuilt. But a group that hangs holds no project up.
        await asyncio.wait({self._groups}, timeout=GROUPS_PATIENCE_S)
        names = self._projects.names
        tallies = await asyncio.gather(*(self._poller.poll(name) for name in names))
        failed = [name for name, tally in zip(names, tallies, strict=True) if tally is None or tally.error]
        groups, sources = [*self._projects.unread], self._sources_not_read()
        if failed or groups or sources:
            log.warning(
                "downtime is not healed: something could not be read; it is asked for again and again",
                projects=len(names),
                projects_not_read=len(failed),
                named=[*failed, *groups, *sources][:SHOWN],
            )
        else:
            log.info("downtime is healed", projects=len(names))

    async def turn(self) -> None:
        """Start the polls of one interval, spread over it."""
        if self._groups is None or self._groups.done():
            self._groups = asyncio.create_task(self._read_groups())
            await asyncio.wait({self._groups}, timeout=self._config.interval / 1000)
        due = await self.due()
        for index, name in enumerate(due):
            task = asyncio.create_task(self._later(name, self._config.interval * index / len(due) / 1000))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Start no more polls."""
        for task in (*self._tasks, *([self._groups] if self._groups else [])):
            task.cancel()

    async def due(self) -> list[int | str]:
        """The projects whose turn it is: with few all; with many the active ones and a share of the others, so that
        every project has its turn within a round.
        """
        names = self._projects.names
        if len(names) <= FEW:
            return names
        active = await self._active(names)
        share = -(-len(names) * self._config.interval // self._config.full_poll_interval)
        return [*active, *self._next(names, share, but=active)]

    def _next(self, names: list[int | str], share: int, *, but: Iterable[int | str]) -> list[int | str]:
        """The next projects of the round. One that was active has had its turn."""
        there, had = set(names), set(but)
        self._waiting = [name for name in self._waiting if name in there and name not in had]
        chosen, self._waiting = self._waiting[:share], self._waiting[share:]
        if len(chosen) < share:  # a new round
            self._waiting = [name for name in names if name not in had and name not in set(chosen)]
            more = share - len(chosen)
            chosen, self._waiting = chosen + self._waiting[:more], self._waiting[more:]
        return chosen

    async def _active(self, names: list[int | str]) -> list[int | str]:
        """The projects in which something happened since the last look, as far as GitLab tells in a few requests,
        and those whose webhooks told.
        """
        now = times.now()
        # Not later than now: the wall clock may have been set back since.
        since = Millis(min(self._looked_at or now, now) - self._config.overlap - self._config.grace_period)
        try:
            async with asyncio.timeout(self._config.interval / 1000):
                active = await in_thread(lambda: self._activity.since(since))
        except Stopped:
            return []
        except Exception as error:  # whatever it is; the next look goes back to where this one began
            foreseen = isinstance(error, (SourceError, TimeoutError))
            log.warning(
                "GitLab does not say which projects are active",
                error=str(error) or "it takes too long",
                exc_info=None if foreseen else error,
            )
            return []
        self._looked_at = now
        active |= runs.heard_since(self._db, since)
        return [name for name in names if self._projects.id_of(name) in active]

    async def _read_groups(self) -> None:
        """Which projects the groups have, once a round; groups that could not be read are asked in every interval.
        Then the logs of the groups' own webhooks.
        """
        now = times.now()
        # Below zero: the wall clock was set back since.
        due = self._groups_read_at is None or not 0 <= now - self._groups_read_at < self._config.full_poll_interval
        if due:
            self._groups_read_at = now
        await self._projects.refresh_groups(only_unread=not due)
        await asyncio.gather(*(self._poller.poll_group(group) for group in self._projects.groups.values()))

    def _sources_not_read(self) -> list[str]:
        """Those that are in trouble. That a project has no webhook, and so no log of one, is none here, nor that
        something is switched off in it.
        """
        troubles = source_state.source_troubles(self._db).items()
        return [f"{source} of project {ident}" for ident, some in troubles for source, trouble in some.items()
                if trouble not in (NoHook.trouble, SwitchedOff.trouble)]  # fmt: skip

    async def _later(self, name: int | str, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._poller.poll(name)
