"""Runs all destinations. Each has an outbox of its own, so that none waits for another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial

import msgspec
import structlog

from reconciler.config.destination_kinds import find_kind
from reconciler.config.destinations import Destination
from reconciler.events import times
from reconciler.events.times import Millis, SteadyClock
from reconciler.forwarding.filters import Test, make_filter
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.outbox import CHECK_INTERVAL_S, Outbox
from reconciler.forwarding.watcher import Watcher
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue.destinations import DestinationSpec, DestinationState
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.queue.routes import Route
from reconciler.supervisor import Supervisor

log = structlog.get_logger(__name__)


class Prepared(msgspec.Struct, frozen=True):
    """Destinations, and the objects built for the new and changed ones, by name."""

    destinations: list[Destination]
    accepts: dict[str, Test]
    built: dict[str, tuple[Kind, Formatter]]

    async def discard(self) -> None:
        """Close the objects that were built: they are not used after all."""
        for name, (kind, formatter) in self.built.items():
            formatter.close()
            try:
                await kind.close()
            except (Exception, SystemExit) as error:
                log.warning("new destination did not close cleanly", destination=name, error=repr(error))


class _Running(msgspec.Struct):
    """A destination, its outbox, and the tasks that run it."""

    destination: Destination
    outbox: Outbox
    delivering: asyncio.Task[None]
    opening_past: asyncio.Task[None]


class Forwarder:
    """Runs an outbox for each destination. `prepare` and `apply` set the destinations, at the start and after each
    change.

    Each outbox is a supervised part of its own, and so is the opening of each destination's past deliveries: one
    that fails is restarted without affecting the others.
    """

    def __init__(self, *, ledger: Ledger, gitlab_url: str, watcher: Watcher, supervisor: Supervisor) -> None:
        self._watcher = watcher
        self._supervisor = supervisor
        self._ledger = ledger
        self._gitlab_url = gitlab_url
        self._event_id = ledger.event_ids()
        self._clock = SteadyClock()
        self._running: dict[int, _Running] = {}
        self._look = asyncio.Event()

    async def prepare(self, wanted: Iterable[Destination]) -> Prepared:
        """Build what these destinations need. Nothing runs yet, and nothing changes.

        Raises whatever a kind's constructor or the compiler of a filter or transform raises.
        """
        wanted = list(wanted)
        running = {one.destination.name: one.destination for one in self._running.values()}
        prepared = Prepared(wanted, {one.name: make_filter(one) for one in wanted}, {})
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
        """Make these the destinations: new ones start, changed ones restart, removed ones stop.

        Attempts in flight end first, so that no event is in flight twice. Raises LedgerError if the ledger can't be
        written; then nothing has changed.
        """
        wanted, built = prepared.destinations, prepared.built
        specs = [as_spec(one) for one in wanted]
        state = _by_name(await self._ledger.queue.sync_destinations(specs, times.now()))
        routes = {one.name: Route(state[one.name].id, one.ordering, prepared.accepts[one.name]) for one in wanted}
        self._ledger.set_routes(list(routes.values()))
        unchanged = {state[one.name].id for one in wanted if one.name not in built}
        await asyncio.gather(*(self._end(ident) for ident in self._running.keys() - unchanged))
        with contextlib.suppress(LedgerError):  # the outboxes that just ended may have changed it
            state = _by_name(self._ledger.queue.destination_states())
        for one in wanted:
            if one.name in built:
                self._start(one, state[one.name], routes[one.name], *built[one.name])

    async def run(self) -> None:
        """Pass the destinations' states on to the outboxes, when notified and every few seconds. Never ends."""
        while True:
            self._look.clear()
            for state in self._ledger.queue.destination_states():
                if state.id in self._running:
                    self._running[state.id].outbox.look_again(state)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_INTERVAL_S):
                    await self._look.wait()

    def opened(self, deliveries: Iterable[Opened]) -> None:
        """A commit of this process opened deliveries."""
        for delivery in deliveries:
            running = self._running.get(delivery.destination_id)
            if running is not None:
                running.outbox.wake()

    def look_again(self) -> None:
        """Another process changed the ledger: it may have opened deliveries, or paused or resumed a destination."""
        self._look.set()

    async def drain(self, patience_s: float) -> None:
        """Start no more attempts, wait `patience_s` for those in flight, then cancel them and disconnect."""
        await asyncio.gather(*(self._end(ident, patience_s) for ident in list(self._running)))

    def _start(
        self, destination: Destination, state: DestinationState, route: Route, kind: Kind, formatter: Formatter
    ) -> None:
        outbox = Outbox(
            destination,
            state,
            ledger=self._ledger,
            formatter=formatter,
            kind=kind,
            watcher=self._watcher,
            clock=self._clock,
        )
        keep = partial(self._supervisor.until_done, stopping=outbox.stopping)
        self._running[state.id] = _Running(
            destination,
            outbox,
            delivering=keep(f"outbox of {destination.name}", outbox.run),
            opening_past=keep(f"past of {destination.name}", partial(self._open_past, route, outbox)),
        )

    async def _end(self, ident: int, patience_s: float | None = None) -> None:
        ended = self._running.pop(ident)
        ended.outbox.stop()
        await asyncio.wait([ended.delivering, ended.opening_past], timeout=patience_s)
        await ended.outbox.close()
        for task in (ended.delivering, ended.opening_past):
            task.cancel()
            self._supervisor.forget(task.get_name())

    async def _open_past(self, route: Route, outbox: Outbox) -> None:
        """Open deliveries of past events, step by step, for a destination that starts in the past."""
        more = True
        while more and not outbox.stopping.is_set():
            more = await self._ledger.queue.open_past_deliveries(route, times.now())
            outbox.wake()


def _by_name(some: Iterable[DestinationState]) -> dict[str, DestinationState]:
    return {one.name: one for one in some}


def as_spec(destination: Destination) -> DestinationSpec:
    """A destination as the ledger stores it."""
    start = destination.start_from
    return DestinationSpec(
        destination.name,
        destination.ordering,
        start if isinstance(start, str) else Millis(round(start.timestamp() * 1000)),
    )
