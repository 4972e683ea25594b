"""The ledger's face: everything that a service does with its ledger, as named operations.

No operation shows a connection or a type of a database's. Commands and the dashboard, which open the ledger for a
moment, use `ledger.beside`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec

from reconciler.events import times
from reconciler.events.intervals import Interval
from reconciler.events.sighting import Sighting
from reconciler.events.times import Millis
from reconciler.ledger.alerts import AlertOperations
from reconciler.ledger.coverage import downtime
from reconciler.ledger.coverage.downtime import Downtime
from reconciler.ledger.coverage.operations import CoverageOperations, WatchlistOperations
from reconciler.ledger.listener import Committed
from reconciler.ledger.queue.operations import QueueOperations
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.queue.sharing import become_worker
from reconciler.ledger.recording import trying
from reconciler.ledger.recording.operations import RecordingOperations
from reconciler.ledger.recording.record import BatchResult, preview, record
from reconciler.ledger.recording.reported import reported_keys
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.connection import opened, touch
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ids import event_ids
from reconciler.ledger.storage.ledger_reader import LedgerReader
from reconciler.ledger.upkeep import failing_parts, reloads
from reconciler.ledger.upkeep.failing_parts import Part
from reconciler.ledger.upkeep.prune import Keep, Pruned, Pruning
from reconciler.ledger.views import search
from reconciler.ledger.views.copies import note_worker
from reconciler.ledger.views.search import Indexed
from reconciler.location import Location


class Ledger:
    """A service's ledger. Use it from the event loop that created it.

    Writes raise LedgerUnavailable if the ledger can't be written, and ChangeFailed if this change can't be; they are
    on disk when they return. `reader` is a second connection, which sees only what is on disk.
    """

    def __init__(self, writer: Writer, reader: Database) -> None:
        self._writer = writer
        self._write = writer.run
        self._read = read = LedgerReader(reader)
        self.recording = RecordingOperations(writer, read)
        self.coverage = CoverageOperations(writer, read)
        self.watchlist = WatchlistOperations(writer)
        self.queue = QueueOperations(writer, read)
        self.alerts = AlertOperations(writer, read)

    # Recording

    def record(self, sightings: Sequence[Sighting]) -> Awaitable[BatchResult]:
        """Record sightings: each belongs to an event, and each new event opens deliveries by the routes."""
        return self._writer.record(sightings)

    async def record_known(self, sightings: Sequence[Sighting]) -> list[int]:
        """Record the sightings of events that the ledger has. Returns the indexes of the others, which would make new
        events and are not recorded.
        """
        began = time.monotonic()
        result = await self._write(lambda db: record(db, sightings, now=times.now(), only_known=True))
        held = set(result.held)
        kept = [sighting for index, sighting in enumerate(sightings) if index not in held]
        self._writer.report_recorded(Committed(kept, result.recorded, time.monotonic() - began))
        return result.held

    def reported_keys(self, keys: Iterable[str]) -> set[str]:
        """Those of these keys of which the ledger has a sighting. Any other key is that of a new event."""
        return self._read(lambda db: reported_keys(db, keys))

    def preview(self, sightings: Sequence[Sighting], now: Millis) -> Awaitable[BatchResult]:
        """What `record` would do, without recording anything."""
        return self._write(lambda db: preview(db, sightings, now=now))

    def set_routes(self, routes: Sequence[Route]) -> None:
        """From now on, new events open deliveries by these routes."""
        self._writer.routes = routes

    def event_ids(self) -> Callable[[int], str]:
        """A function that turns an event's number into the id that destinations see."""
        return self._read(event_ids)

    # The service

    def note_start(
        self, now: Millis, *, received: Callable[[Interval], bool] = lambda _: False
    ) -> Awaitable[Downtime | None]:
        """The service starts. Returns how long it was down; None at its first start. `received` says whether a
        receiver accepted webhooks all the while.
        """
        return self._write(lambda db: downtime.note_start(db, now, received=received))

    def become_worker(self) -> Awaitable[bool]:
        """Whether this copy is the worker now, because no other one is."""
        return self._writer.ask(become_worker)

    def note_worker(self, process: int) -> Awaitable[None]:
        """This process is the one that has the ledger now."""
        return self._write(lambda db: note_worker(db, process))

    def heartbeat(self, now: Millis) -> Awaitable[None]:
        """The service is alive."""
        return self._write(lambda db: downtime.heartbeat(db, now))

    def note_stop(self, now: Millis) -> Awaitable[None]:
        """The service stops in order: it was not killed, and none of its parts counts as failing."""

        def write(db: Database) -> None:
            downtime.note_stop(db, now)
            trying.note_stop(db)
            failing_parts.note_parts(db, [])

        return self._write(write)

    def note_parts(self, found: Iterable[Part]) -> Awaitable[None]:
        """These are the parts of the service that have failed since it started."""
        found = list(found)
        return self._write(lambda db: failing_parts.note_parts(db, found))

    def note_reload(self, error: str | None) -> Awaitable[None]:
        """A reload of the config has ended; `error` says why it was rejected."""
        return self._write(lambda db: reloads.note_reload(db, error))

    # The store itself

    def check_writable(self) -> Awaitable[None]:
        """Commit something harmless, which proves that the ledger can be written."""
        return self._write(touch)

    def version(self) -> Awaitable[int]:
        """A number that changes when another process has committed to the ledger."""
        # Asked of the writer's connection, whose number does not change with its own commits.
        return self._writer.ask(lambda db: db.version())

    def index_next(self) -> Awaitable[Indexed]:
        """Add the next events to the search index."""
        return self._write(search.index_step)

    async def prune(self, keep: Keep, now: Millis) -> AsyncIterator[Pruned]:
        """Drop what is older than it is kept, in short steps. Yields what was dropped so far, after each."""
        pruning, done = Pruning(keep, now=now), False
        while not done:
            done = await self._write(pruning.step)
            yield msgspec.structs.replace(pruning.pruned)

    @property
    def damage(self) -> str | None:
        """What is known about damage to the ledger; None if nothing is."""
        return self._writer.damage

    def report_damage(self, error: BaseException) -> None:
        """Look at an error that was met: if it shows that the ledger is damaged, the next start checks it."""
        self._writer.report_damage(error)

    async def close(self) -> None:
        """Wait until everything that was submitted is on disk or has failed."""
        await self._writer.close()


@asynccontextmanager
async def open_beside(path: Location) -> AsyncIterator[Ledger]:
    """A ledger for a command that reads from GitLab, beside a service or without one. Raises LedgerError."""
    with opened(path) as db, opened(path, readonly=True) as reader:
        ledger = Ledger(Writer(db), reader)
        try:
            yield ledger
        finally:
            await ledger.close()
