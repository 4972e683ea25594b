"""All destinations together: each has its own outbox, so that none waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterable
from functools import partial

import msgspec
import structlog
from sqlite_utils import Database

from reconciler.config.destinations import Destination
from reconciler.config.kinds import find_kind
from reconciler.events import times
from reconciler.events.times import Millis, SteadyClock
from reconciler.forwarding.filters import Test, accepting
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.outbox import LOOK_S, Outbox, Watcher
from reconciler.ledger.intake.writer import Writer
from reconciler.ledger.queue import destinations
from reconciler.ledger.queue.destinations import Standing, Wanted
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.queue.past_deliveries import fill_step
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.storage.ids import event_ids
from reconciler.supervisor import Supervisor

log = structlog.get_logger(__name__)


class Prepared(msgspec.Struct, frozen=True):
    """Destinations, and what was built for those that are new or changed, by name."""

    destinations: list[Destination]
    accepts: dict[str, Test]
    built: dict[str, tuple[Kind, Formatter]]

    async def discard(self) -> None:
        """Close what was built, where it is not to be used after all."""
        for name, (kind, formatter) in self.built.items():
            formatter.close()
            try:
                await kind.close()
            except (Exception, SystemExit) as error:
                log.warning("what was built for a destination does not close", destination=name, error=repr(error))


class _Running(msgspec.Struct):
    """A destination that is delivered to, and the tasks that do it."""

    destination: Destination
    outbox: Outbox
    delivering: asyncio.Task[None]
    filling: asyncio.Task[None]


class Forwarder:
    """Runs an outbox for each destination. `prepare` and `apply` say which there are, at the start and whenever that
    changes.

    Each outbox, and the opening of each destination's past, is a part of its own: one that fails starts again by
    itself, and takes nothing else down.
    """

    def __init__(
        self, *, db: Database, writer: Writer, gitlab_url: str, watcher: Watcher, supervisor: Supervisor
    ) -> None:
        self._watcher = watcher
        self._supervisor = supervisor
        self._db = db
        self._writer = writer
        self._gitlab_url = gitlab_url
        self._event_id = event_ids(db)
        self._clock = SteadyClock()
        self._running: dict[int, _Running] = {}
        self._look = asyncio.Event()

    async def prepare(self, wanted: Iterable[Destination]) -> Prepared:
        """Build what these destinations need. Nothing of it runs yet, and nothing else is changed.

        Raises whatever a kind's constructor, a filter's or a transform's compiler raises.
        """
        wanted = list(wanted)
        running = {one.destination.name: one.destination for one in self._running.values()}
        prepared = Prepared(wanted, {one.name: accepting(one) for one in wanted}, {})
        try:
            for one in wanted:
                if running.get(one.name) != one:
                    formatter = Formatter(one, event_id=self._event_id, gitlab_url=self._gitlab_url)
                    prepared.built[one.name] = (find_kind(one.kind)(one), formatter)
        except BaseException:
            await prepared.discard()
            raise
        return prepared

    async def apply(self, prepared: Prepared) -> None:
        """Make these the destinations: those that are new start, those that changed start anew, others end.

        What is in flight ends first, so that no event is on its way twice. Raises LedgerError where the ledger can't
        be written; then nothing is changed.
        """
        wanted, built = prepared.destinations, prepared.built
        standing = await self._writer.run(partial(_sync, wanted))
        routes = {one.name: Route(standing[one.name].id, one.ordering, prepared.accepts[one.name]) for one in wanted}
        self._writer.routes = list(routes.values())
        unchanged = {standing[one.name].id for one in wanted if one.name not in built}
        await asyncio.gather(*(self._end(ident) for ident in self._running.keys() - unchanged))
        with contextlib.suppress(sqlite3.Error):  # what has just ended may have changed it
            standing = _by_name(destinations.standings(self._db))
        for one in wanted:
            if one.name in built:
                self._start(one, standing[one.name], routes[one.name], *built[one.name])

    async def run(self) -> None:
        """Never ends: asks the ledger how the destinations stand, when told to, and in any case every few seconds."""
        while True:
            self._look.clear()
            for standing in destinations.standings(self._db):
                if standing.id in self._running:
                    self._running[standing.id].outbox.look_again(standing)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()

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
        keep = partial(self._supervisor.until_done, stopping=outbox.stopping)
        self._running[standing.id] = _Running(
            destination,
            outbox,
            delivering=keep(f"outbox of {destination.name}", outbox.run),
            filling=keep(f"past of {destination.name}", partial(self._fill, route, outbox)),
        )

    async def _end(self, ident: int, patience_s: float | None = None) -> None:
        ended = self._running.pop(ident)
        ended.outbox.stop()
        await asyncio.wait([ended.delivering, ended.filling], timeout=patience_s)
        await ended.outbox.close()
        for task in (ended.delivering, ended.filling):
            task.cancel()
            self._supervisor.forget(task.get_name())

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
    start = destination.start_from
    return Wanted(
        destination.name,
        destination.ordering,
        start if isinstance(start, str) else Millis(round(start.timestamp() * 1000)),
    )
