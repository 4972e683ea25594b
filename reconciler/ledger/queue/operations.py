"""The ledger's operations on the queue: destinations, and the deliveries that they are to get."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from reconciler.events.times import Millis
from reconciler.ledger.queue import deliveries, destinations, past_deliveries, pulled, sharing
from reconciler.ledger.queue.deliveries import Ready, Settled
from reconciler.ledger.queue.destinations import Breaker, DestinationSpec, DestinationState
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.queue.sharing import Shared
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.database import Database
from reconciler.ledger.storage.ledger_reader import LedgerReader


class Settlement(msgspec.Struct, frozen=True):
    """Outcomes of attempts at one destination. `breaker` is the circuit breaker's new state, if it has changed.
    `gone_at`: the destination answered 410 then, and is paused.
    """

    settled: Sequence[Settled]
    breaker: Breaker | None = None
    gone_at: Millis | None = None


class QueueOperations:
    """Writes raise LedgerUnavailable if the ledger can't be written; they are on disk when they return. Reads raise
    LedgerError.
    """

    def __init__(self, writer: Writer, read: LedgerReader) -> None:
        self._writer = writer
        self._write = writer.run
        self._read = read

    @property
    def is_held(self) -> bool:
        """Whether no other process can send these deliveries by now."""
        return self._writer.is_held

    @property
    def is_shared(self) -> bool:
        """Whether destinations are shared with other copies: then only those may be delivered to that `take` gave."""
        return self._writer.is_shared

    def note_copy(self, process: int, destinations: Collection[int]) -> Awaitable[Shared]:
        """This copy can deliver to these. Returns which copies there are, and what each of them has."""
        return self._writer.ask(lambda db: sharing.note(db, process, destinations))

    def take(self, destinations: Collection[int]) -> Awaitable[set[int]]:
        """Take those of these destinations that no copy has. Returns those that this one has then."""
        return self._writer.ask(lambda db: sharing.take(db, destinations))

    def give_back(self, destinations: Collection[int]) -> Awaitable[None]:
        """Give back destinations: another copy may deliver to them from now on."""
        return self._writer.ask(lambda db: sharing.give_back(db, destinations))

    def sync_destinations(self, specs: Sequence[DestinationSpec], now: Millis) -> Awaitable[list[DestinationState]]:
        """Make these the active destinations. Returns all destinations, by name.

        One that is not among them becomes inactive, and keeps its pending deliveries. A new one gets past events as
        its `start` says: `open_past_deliveries` opens them.
        """

        def write(db: Database) -> list[DestinationState]:
            destinations.sync(db, specs, now=now)
            return destinations.destination_states(db)

        return self._write(write)

    def add_destinations(self, specs: Sequence[DestinationSpec]) -> Awaitable[dict[str, int]]:
        """Add the destinations that are new, and change no other. Returns the ids of all active ones, by name."""
        return self._write(lambda db: destinations.add(db, specs))

    def destination_states(self) -> list[DestinationState]:
        """All destinations, by name."""
        return self._read(destinations.destination_states)

    def open_past_deliveries(self, route: Route, now: Millis) -> Awaitable[bool]:
        """Open the next deliveries of past events for a destination. False when all of them are open."""
        return self._write(lambda db: past_deliveries.open_past_deliveries(db, route, now=now) is not None)

    def due_lanes(self, destination_id: int, *, now: Millis, limit: int) -> list[str]:
        """Up to `limit` lanes whose first delivery is due, in the order of their turns."""
        return self._read(lambda db: deliveries.due_lanes(db, destination_id, now=now, limit=limit))

    def next_due(self, destination_id: int, *, after: Millis) -> Millis | None:
        """When the next lane that waits for a retry is due; None if none does."""
        return self._read(lambda db: deliveries.next_due(db, destination_id, after=after))

    def first_of_lanes(
        self, destination_id: int, lanes: Sequence[str], *, now: Millis, limit: int, each: int
    ) -> dict[str, list[int]]:
        """The events that go next of each of these lanes, up to `limit` in all, shared evenly, and up to `each` of
        one.
        """
        return self._read(
            lambda db: deliveries.first_of_lanes(db, destination_id, lanes, now=now, limit=limit, each=each)
        )

    def ready(self, destination_id: int, event_ids: Sequence[int], *, most_bytes: int) -> list[Ready]:
        """These deliveries with their events, in this order: at least one, and about `most_bytes` at most."""
        return self._read(lambda db: deliveries.ready(db, destination_id, event_ids, most_bytes=most_bytes))

    def failed_often(self, destination_id: int, event_ids: Sequence[int], *, failures: int) -> set[int]:
        """Those of these deliveries that have failed at least so many times."""
        return self._read(lambda db: deliveries.failed_often(db, destination_id, event_ids, failures=failures))

    def pull_back(self, destination_id: int, *, longest: Millis, now: Millis) -> Awaitable[bool]:
        """Bring forward retries that are due later than their own pause from now: the wall clock was set back.

        `longest` is the longest pause that the config allows. Works in short steps: repeat it until it returns False.
        """
        return self._write(lambda db: deliveries.pull_back(db, destination_id, longest=longest, now=now))

    def begin_pull(self, destination_id: int) -> Awaitable[None]:
        """A destination's consumer fetches its deliveries from now on: nothing holds them back that did so before."""
        return self._write(lambda db: pulled.begin(db, destination_id))

    def settle(self, destination_id: int, settlement: Callable[[], Settlement]) -> Awaitable[None]:
        """Record the outcomes of attempts in one transaction.

        `settlement` is called when the transaction begins: what became ready while it waited can be in it. If the
        transaction is repeated it is called again: its last result is what is on disk.
        """

        def write(db: Database) -> None:
            made = settlement()
            deliveries.settle(db, made.settled)
            if made.breaker is not None:
                destinations.note_breaker(db, destination_id, made.breaker)
            if made.gone_at is not None:
                destinations.pause(db, destination_id, destinations.GONE, now=made.gone_at)

        return self._write(write)
