"""Which projects are polled when: active ones in every interval, quiet ones once per full poll."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from reconciler.config.models import Config, Reconcile
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.ledger import Ledger
from reconciler.polling.poller import Poller
from reconciler.polling.projects import Projects
from reconciler.polling.threads import in_thread
from reconciler.sources.activity import Activity
from reconciler.sources.errors import NoHook, SourceError, Stopped, SwitchedOff

POLL_ALL_UP_TO = 20
"""Up to this many projects are all polled in every interval. With more, GitLab is asked first which are active."""

GROUPS_PATIENCE_S = 60.0
"""How long the first polls wait for the groups to be read."""
SHOWN = 20
"""At most this many names are in one line of the log."""

log = structlog.get_logger(__name__)


def longest_poll_interval(config: Config) -> Millis:
    """The longest time between two polls of a project. If there are many, quiet ones wait for their turn."""
    many = bool(config.groups) or len(config.projects) > POLL_ALL_UP_TO
    return max(config.reconcile.interval, config.reconcile.full_poll_interval) if many else config.reconcile.interval


def expected(config: Config, now: Millis) -> Millis:
    """Up to when a service that works as it should has read every project."""
    return Millis(now - config.reconcile.grace_period - 2 * longest_poll_interval(config))


class Schedule:
    """Starts polls. `turn` is called once an interval."""

    def __init__(
        self, config: Reconcile, *, poller: Poller, projects: Projects, activity: Activity, ledger: Ledger
    ) -> None:
        self._config = config
        self._poller = poller
        self._projects = projects
        self._activity = activity
        self._coverage = ledger.coverage
        self._checked_at: Millis | None = None
        self._groups_read_at: Millis | None = None
        self._groups: asyncio.Task[None] | None = None
        self._waiting: list[int | str] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._stopped = asyncio.Event()

    async def catch_up(self) -> None:
        """After a start: poll every project, as many at a time as the config allows."""
        await self._projects.begin()
        self._checked_at = times.now()
        self._groups = asyncio.create_task(self._read_groups())
        # Groups' webhook logs first: they have GitLab's own bodies. But a group that hangs must not delay projects.
        await asyncio.wait({self._groups}, timeout=GROUPS_PATIENCE_S)
        names = self._projects.names
        polls = await asyncio.gather(*(self._poller.poll(name) for name in names))
        failed = [name for name, counts in zip(names, polls, strict=True) if counts is None or counts.error]
        groups, sources = [*self._projects.unread], self._sources_not_read()
        if failed or groups or sources:
            log.warning(
                "could not catch up with GitLab: something could not be read, and will be retried",
                projects=len(names),
                projects_not_read=len(failed),
                named=[*failed, *groups, *sources][:SHOWN],
            )
        else:
            log.info("caught up with GitLab", projects=len(names))

    async def turn(self) -> None:
        """Start the polls of one interval, spread over it. After `stop`, none."""
        if self._stopped.is_set():
            return
        if self._groups is None or self._groups.done():
            self._groups = asyncio.create_task(self._read_groups())
            await asyncio.wait({self._groups}, timeout=self._config.interval / 1000)
        due = await self.due()
        if self._stopped.is_set():  # meanwhile: these are names of an old config
            return
        for index, name in enumerate(due):
            task = asyncio.create_task(self._later(name, self._config.interval * index / len(due) / 1000))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Start no more polls."""
        self._stopped.set()
        for task in (*self._tasks, *([self._groups] if self._groups else [])):
            task.cancel()

    async def due(self) -> list[int | str]:
        """The projects whose turn it is. Few projects: all. Many: the active ones and a share of the others, so that
        every project has its turn once per full poll.
        """
        names = self._projects.names
        if len(names) <= POLL_ALL_UP_TO:
            return names
        active = await self._active(names)
        share = -(-len(names) * self._config.interval // self._config.full_poll_interval)
        return [*active, *self._next(names, share, exclude=active)]

    def _next(self, names: list[int | str], share: int, *, exclude: Iterable[int | str]) -> list[int | str]:
        """The next projects of the full poll. An active one has had its turn."""
        current, excluded = set(names), set(exclude)
        self._waiting = [name for name in self._waiting if name in current and name not in excluded]
        chosen, self._waiting = self._waiting[:share], self._waiting[share:]
        if len(chosen) < share:  # a new full poll begins
            self._waiting = [name for name in names if name not in excluded and name not in set(chosen)]
            more = share - len(chosen)
            chosen, self._waiting = chosen + self._waiting[:more], self._waiting[more:]
        return chosen

    async def _active(self, names: list[int | str]) -> list[int | str]:
        """The projects in which something has happened since the last check, as far as a few requests show, and those
        from which a webhook has reported something.
        """
        now = times.now()
        # Not later than now: the wall clock may have been set back since.
        since = Millis(min(self._checked_at or now, now) - self._config.overlap - self._config.grace_period)
        try:
            async with asyncio.timeout(self._config.interval / 1000):
                active = await in_thread(lambda: self._activity.since(since))
        except Stopped:
            return []
        except Exception as error:  # any error: the next check goes back to where this one began
            is_expected = isinstance(error, (SourceError, TimeoutError))
            log.warning(
                "can't tell which projects are active",
                error=str(error) or "it takes too long",
                exc_info=None if is_expected else error,
            )
            return []
        self._checked_at = now
        active |= self._coverage.reported_since(since)
        return [name for name in names if self._projects.id_of(name) in active]

    async def _read_groups(self) -> None:
        """Read which projects the groups have, once per full poll, or in every interval after a failure. Then read
        the logs of the groups' own webhooks.
        """
        now = times.now()
        # Below zero: the wall clock was set back since.
        due = self._groups_read_at is None or not 0 <= now - self._groups_read_at < self._config.full_poll_interval
        if due:
            self._groups_read_at = now
        await self._projects.refresh_groups(only_unread=not due)
        await asyncio.gather(*(self._poller.poll_group(group) for group in self._projects.groups.values()))

    def _sources_not_read(self) -> list[str]:
        """The sources that could not be read. A project without a webhook, or with something switched off, does not
        count.
        """
        troubles = self._coverage.source_troubles().items()
        return [f"{source} of project {ident}" for ident, some in troubles for source, trouble in some.items()
                if trouble not in (NoHook.trouble, SwitchedOff.trouble)]  # fmt: skip

    async def _later(self, name: int | str, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._poller.poll(name)
