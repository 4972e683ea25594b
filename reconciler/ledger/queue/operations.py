"""The ledger's operations on the queue: destinations, and the deliveries that they are to get."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from sqlite_utils import Database

from reconciler.events.times import Millis
from reconciler.ledger.queue import deliveries, destinations, past_deliveries
from reconciler.ledger.queue.deliveries import Attempt, Outgoing, Queued
from reconciler.ledger.queue.destinations import Breaker, DestinationSpec, DestinationState
from reconciler.ledger.queue.routes import Route
from reconciler.ledger.recording.writer import Writer
from reconciler.ledger.storage.reading import LedgerReader


class QueueOperations:
    """Writes raise LedgerUnavailable if the ledger can't be written; they are on disk when they return. Reads raise
    LedgerError.
    """

    def __init__(self, writer: Writer, read: LedgerReader) -> None:
        self._write = writer.run
        self._read = read

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

    def next_lanes(self, destination_id: int, *, now: Millis, limit: int) -> list[Queued]:
        """The first deliveries of up to `limit` lanes that are due, in the order of the lanes' turns."""
        return self._read(lambda db: deliveries.next_lanes(db, destination_id, now=now, limit=limit))

    def next_due(self, destination_id: int, *, after: Millis) -> Millis | None:
        """When the next lane that waits for a retry is due; None if none does."""
        return self._read(lambda db: deliveries.next_due(db, destination_id, after=after))

    def outgoing(self, event_id: int) -> Outgoing:
        """An event with its payload, as destinations are sent it."""
        return self._read(lambda db: deliveries.outgoing(db, event_id))

    def pull_back(self, destination_id: int, *, longest: Millis, now: Millis) -> Awaitable[bool]:
        """Bring forward retries that are due later than their own pause from now: the wall clock was set back.

        `longest` is the longest pause that the config allows. Works in short steps: repeat it until it returns False.
        """
        return self._write(lambda db: deliveries.pull_back(db, destination_id, longest=longest, now=now))

    def settle(
        self,
        attempt: Attempt,
        *,
        dead: bool,
        pause: Millis | None,
        now: Millis,
        breaker: Breaker | None = None,
        paused_why: str | None = None,
    ) -> Awaitable[None]:
        """Note an attempt, and what follows from it.

        The event is delivered, unless it is `dead` (a dead letter) or is tried again after `pause`. `now` is the
        steady clock's. `breaker` is the circuit breaker's new state, if it has changed. With `paused_why` the
        destination is paused for that reason.
        """

        def write(db: Database) -> None:
            if dead:
                deliveries.mark_dead(db, attempt)
            elif pause is not None:
                deliveries.retry(db, attempt, pause=pause, now=now)
            else:
                deliveries.deliver(db, attempt)
            if breaker is not None:
                destinations.note_breaker(db, attempt.destination_id, breaker)
            if paused_why is not None:
                destinations.pause(db, attempt.destination_id, paused_why, now=attempt.ended_at)

        return self._write(write)
