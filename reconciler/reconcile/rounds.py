"""Which projects are polled when: the active ones in every interval, the quiet ones once a round."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog
from sqlite_utils import Database

from reconciler.config.models import Config, Reconcile
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger import runs
from reconciler.reconcile.poller import Poller
from reconciler.reconcile.projects import Projects
from reconciler.reconcile.threads import in_thread
from reconciler.sources.activity import Activity
from reconciler.sources.errors import SourceError, Stopped

FEW = 20
"""So many projects are polled one by one in every interval; with more, GitLab is asked first which are active."""

log = structlog.get_logger(__name__)


def expected(config: Config, now: Millis) -> Millis:
    """Up to when a service that polls as it should has read every project: where there are many, the quiet ones wait
    for their turn.
    """
    reconcile = config.reconcile
    many = bool(config.groups) or len(config.projects) > FEW
    pause = max(reconcile.interval, reconcile.round) if many else reconcile.interval
    return Millis(now - reconcile.settle - 2 * pause)


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
        self._waiting: list[int | str] = []
        self._tasks: set[asyncio.Task[object]] = set()

    async def heal(self) -> None:
        """After a start: every project is polled, as many together as the config allows."""
        self._looked_at = times.now()
        await self._refresh_groups()
        names = self._projects.names
        await self._poll_groups()  # GitLab's own bodies first: then nothing need be rebuilt
        await asyncio.gather(*(self._poller.poll(name) for name in names))
        log.info("downtime is healed", projects=len(names))

    async def turn(self) -> None:
        """Start the polls of one interval, spread over it."""
        await self._refresh_groups()
        await self._poll_groups()
        due = await self.due()
        for index, name in enumerate(due):
            task = asyncio.create_task(self._later(name, self._config.interval * index / len(due) / 1000))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Start no more polls."""
        for task in self._tasks:
            task.cancel()

    async def due(self) -> list[int | str]:
        """The projects whose turn it is: with few all; with many the active ones and a share of the others, so that
        every project has its turn within a round.
        """
        names = self._projects.names
        if len(names) <= FEW:
            return names
        active = await self._active(names)
        share = -(-len(names) * self._config.interval // self._config.round)
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
        since = Millis((self._looked_at or now) - self._config.overlap - self._config.settle)
        try:
            active = await in_thread(lambda: self._activity.since(since))
        except Stopped:
            return []
        except SourceError as error:  # the next look goes back to where this one began
            log.warning("GitLab does not say which projects are active", error=str(error))
            return []
        self._looked_at = now
        active |= runs.heard_since(self._db, since)
        return [name for name in names if self._projects.id_of(name) in active]

    async def _refresh_groups(self) -> None:
        now = times.now()
        if self._groups_read_at is None or now - self._groups_read_at >= self._config.round:
            self._groups_read_at = now
            await self._projects.refresh_groups()

    async def _poll_groups(self) -> None:
        await asyncio.gather(*(self._poller.poll_group(group) for group in self._projects.groups.values()))

    async def _later(self, name: int | str, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._poller.poll(name)
