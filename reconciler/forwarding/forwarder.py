"""All destinations together: each has its own outbox, so that none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

import msgspec
import structlog
from sqlite_utils import Database

from reconciler.config.destinations import Destination
from reconciler.config.kinds import find_kind
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.forwarding.filters import routes
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.outbox import Outbox, Watcher
from reconciler.ledger import destinations
from reconciler.ledger.destinations import Standing, Wanted
from reconciler.ledger.errors import ChangeFailed, LedgerUnavailable
from reconciler.ledger.fill import fill_step
from reconciler.ledger.ids import event_ids
from reconciler.ledger.opening import Opened
from reconciler.ledger.writer import Writer

FILL_PAUSE_S = 1.0

log = structlog.get_logger(__name__)


class Prepared(msgspec.Struct, frozen=True):
    """Destinations, and what was built for those that are new or changed, by name."""

    destinations: list[Destination]
    as_wanted: list[Wanted]
    built: dict[str, tuple[Kind, Formatter]]

    async def discard(self) -> None:
        """Close what was built, where it is not to be used after all."""
        for name, (kind, _) in self.built.items():
            try:
                await kind.close()
            except Exception as error:
                log.warning("what was built for a destination does not close", destination=name, error=repr(error))


class Forwarder:
    """Runs an outbox for each destination. `apply` says which there are, at the start and whenever that changes."""

    def __init__(self, *, db: Database, writer: Writer, gitlab_url: str, watcher: Watcher) -> None:
        self._watcher = watcher
        self._db = db
        self._writer = writer
        self._gitlab_url = gitlab_url
        self._event_id = event_ids(db)
        self._running: dict[int, tuple[Destination, Outbox, asyncio.Task[None]]] = {}
        self._filling: asyncio.Task[None] | None = None
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def prepare(self, wanted: Iterable[Destination]) -> Prepared:
        """Build what these destinations need. Nothing of it runs yet, and nothing else is changed.

        Raises whatever a kind's constructor raises.
        """
        wanted = list(wanted)
        running = {old.name: old for old, _, _ in self._running.values()}
        prepared = Prepared(wanted, [as_wanted(one) for one in wanted], {})
        routes(wanted, {one.name: 0 for one in wanted})  # filters are built too
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
        wanted = prepared.destinations
        ids, standings = await self._writer.run(
            lambda db: (destinations.sync(db, prepared.as_wanted, now=times.now()), destinations.standings(db))
        )
        self._writer.routes = routes(wanted, ids)
        unchanged = {ids[one.name] for one in wanted if one.name not in prepared.built}
        await asyncio.gather(*(self._end(ident) for ident in self._running.keys() - unchanged))
        standing = {one.name: one for one in standings}
        for destination in wanted:
            if destination.name in prepared.built:
                self._start(destination, standing[destination.name], *prepared.built[destination.name])
        if self._filling is not None:
            self._filling.cancel()  # where it is stands in the ledger
        self._filling = asyncio.create_task(self._fill())

    async def run(self) -> None:
        """Never ends, unless an outbox does by itself: then its error is raised."""
        await self._broken

    def opened(self, deliveries: Iterable[Opened]) -> None:
        """Deliveries were opened by a commit of this process."""
        for delivery in deliveries:
            running = self._running.get(delivery.destination_id)
            if running is not None:
                running[1].wake(delivery.lane)

    def look_again(self) -> None:
        """Another process changed the ledger: it may have opened deliveries, paused a destination or resumed it."""
        for standing in destinations.standings(self._db):
            if standing.id in self._running:
                self._running[standing.id][1].look_again(standing)

    async def drain(self, patience_s: float) -> None:
        """Start no more attempts; wait, so long, for those in flight. Then give them up and close all connections."""
        if self._filling is not None:
            self._filling.cancel()
        await asyncio.gather(*(self._end(ident, patience_s) for ident in list(self._running)))

    def _start(self, destination: Destination, standing: Standing, kind: Kind, formatter: Formatter) -> None:
        outbox = Outbox(
            destination,
            standing,
            db=self._db,
            writer=self._writer,
            formatter=formatter,
            kind=kind,
            watcher=self._watcher,
        )
        task = asyncio.create_task(outbox.run())
        task.add_done_callback(self._watch)
        self._running[standing.id] = (destination, outbox, task)

    def _watch(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _end(self, ident: int, patience_s: float | None = None) -> None:
        _, outbox, task = self._running.pop(ident)
        outbox.stop()
        await asyncio.wait([task], timeout=patience_s)
        try:
            await outbox.close()
        except Exception:  # a kind's: it is of no use any more
            log.exception("a destination does not close")
        task.cancel()

    async def _fill(self) -> None:
        """Open the past for destinations that start there, part by part."""
        for route in self._writer.routes:
            opened: list[Opened] | None = []
            while opened is not None:
                try:
                    opened = await self._writer.run(partial(fill_step, route=route, now=times.now()))
                except LedgerUnavailable:
                    await asyncio.sleep(FILL_PAUSE_S)
                except ChangeFailed:  # the writer has said so; the next start goes on here
                    opened = None
                else:
                    self.opened(opened or ())


def as_wanted(destination: Destination) -> Wanted:
    """A destination as the ledger knows it."""
    start = destination.start
    return Wanted(
        destination.name,
        destination.ordering,
        start if isinstance(start, str) else Millis(round(start.timestamp() * 1000)),
    )
