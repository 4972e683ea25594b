"""All destinations together: each has its own outbox, so that none waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial

import msgspec
import structlog
from sqlite_utils import Database

from reconciler.config.destinations import Destination
from reconciler.config.kinds import find_kind
from reconciler.events import times
from reconciler.events.times import Millis, SteadyClock
from reconciler.forwarding.filters import accepting
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.outbox import LOOK_S, Outbox, Watcher
from reconciler.forwarding.supervision import keep_running
from reconciler.ledger import destinations
from reconciler.ledger.destinations import Standing, Wanted
from reconciler.ledger.fill import fill_step
from reconciler.ledger.ids import event_ids
from reconciler.ledger.opening import Opened
from reconciler.ledger.routes import Route
from reconciler.ledger.writer import Writer

log = structlog.get_logger(__name__)


class _Running(msgspec.Struct):
    """A destination that is delivered to, and the tasks that do it."""

    destination: Destination
    outbox: Outbox
    delivering: asyncio.Task[None]
    filling: asyncio.Task[None]


class Forwarder:
    """Runs an outbox for each destination. `apply` says which there are, at the start and whenever that changes."""

    def __init__(self, *, db: Database, writer: Writer, gitlab_url: str, watcher: Watcher) -> None:
        self._watcher = watcher
        self._db = db
        self._writer = writer
        self._gitlab_url = gitlab_url
        self._event_id = event_ids(db)
        self._clock = SteadyClock()
        self._running: dict[int, _Running] = {}
        self._look = asyncio.Event()

    async def apply(self, wanted: Iterable[Destination]) -> None:
        """Make these the destinations: those that are new start, those that changed start anew, others end.

        What is in flight ends first, so that no event is on its way twice. Where anything of a destination can't be
        built, its error is raised, and everything goes on as before.
        """
        wanted = list(wanted)
        before = {one.destination.name: one.destination for one in self._running.values()}
        changed = [one for one in wanted if before.get(one.name) != one]
        async with AsyncExitStack() as built:
            made: dict[str, tuple[Kind, Formatter]] = {}
            for one in changed:
                kind: Kind = find_kind(one.kind)(one)
                built.push_async_callback(kind.close)
                made[one.name] = kind, Formatter(one, event_id=self._event_id, gitlab_url=self._gitlab_url)
            accepts = {one.name: accepting(one) for one in wanted}
            standing = await self._writer.run(partial(_sync, wanted))
            built.pop_all()
        routes = {one.name: Route(standing[one.name].id, one.ordering, accepts[one.name]) for one in wanted}
        self._writer.routes = list(routes.values())
        unchanged = {standing[one.name].id for one in wanted if one.name not in made}
        await asyncio.gather(*(self._end(ident) for ident in self._running.keys() - unchanged))
        with contextlib.suppress(sqlite3.Error):  # what has just ended may have changed it
            standing = _by_name(destinations.standings(self._db))
        for one in changed:
            self._start(one, standing[one.name], routes[one.name], *made[one.name])

    async def run(self) -> None:
        """Never ends: hands on what other processes do to the destinations."""
        await keep_running(self._look_on, stopping=asyncio.Event(), log=log.bind(part="forwarder"))

    def opened(self, deliveries: Iterable[Opened]) -> None:
        """Deliveries were opened by a commit of this process."""
        for delivery in deliveries:
            running = self._running.get(delivery.destination_id)
            if running is not None:
                running.outbox.wake()

    def look_again(self) -> None:
        """Another process changed the ledger: it may have opened deliveries, paused a destination or resumed it."""
        self._look.set()

    async def drain(self, patience_s: float) -> None:
        """Start no more attempts; wait, so long, for those in flight. Then give them up and close all connections."""
        await asyncio.gather(*(self._end(ident, patience_s) for ident in list(self._running)))

    def _start(
        self, destination: Destination, standing: Standing, route: Route, kind: Kind, formatter: Formatter
    ) -> None:
        outbox = Outbox(
            destination,
            standing,
            db=self._db,
            writer=self._writer,
            formatter=formatter,
            kind=kind,
            watcher=self._watcher,
            clock=self._clock,
        )
        about = log.bind(destination=destination.name)
        keep = partial(keep_running, stopping=outbox.stopping)
        self._running[standing.id] = _Running(
            destination,
            outbox,
            delivering=asyncio.create_task(keep(outbox.run, log=about.bind(part="outbox"))),
            filling=asyncio.create_task(keep(partial(self._fill, route, outbox), log=about.bind(part="fill"))),
        )

    async def _end(self, ident: int, patience_s: float | None = None) -> None:
        ended = self._running.pop(ident)
        ended.outbox.stop()
        await asyncio.wait([ended.delivering, ended.filling], timeout=patience_s)
        await ended.outbox.close()
        ended.delivering.cancel()
        ended.filling.cancel()

    async def _look_on(self) -> None:
        """Ask the ledger how the destinations stand: when told to, and in any case every few seconds."""
        while True:
            self._look.clear()
            for standing in destinations.standings(self._db):
                if standing.id in self._running:
                    self._running[standing.id].outbox.look_again(standing)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()

    async def _fill(self, route: Route, outbox: Outbox) -> None:
        """Open a destination's past, part by part, where it starts there."""
        opened: list[Opened] | None = []
        while opened is not None and not outbox.stopping.is_set():
            opened = await self._writer.run(partial(fill_step, route=route, now=times.now()))
            outbox.wake()


def _sync(wanted: Iterable[Destination], db: Database) -> dict[str, Standing]:
    destinations.sync(db, [as_wanted(one) for one in wanted], now=times.now())
    return _by_name(destinations.standings(db))


def _by_name(some: Iterable[Standing]) -> dict[str, Standing]:
    return {one.name: one for one in some}


def as_wanted(destination: Destination) -> Wanted:
    """A destination as the ledger knows it."""
    start = destination.start
    return Wanted(
        destination.name,
        destination.ordering,
        start if isinstance(start, str) else Millis(round(start.timestamp() * 1000)),
    )
