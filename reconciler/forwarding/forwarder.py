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
from reconciler.forwarding.kind import Kind, close
from reconciler.forwarding.outbox import CHECK_INTERVAL_S, Outbox
from reconciler.forwarding.pulled import Pulled
from reconciler.forwarding.sharing import Sharing
from reconciler.forwarding.waiting import Waiting
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
            await close(kind, name)


class _Wanted(msgspec.Struct):
    """A destination of the config, and what was built for it and is not used yet."""

    destination: Destination
    accepts: Test
    built: tuple[Kind, Formatter] | None = None
    is_broken: bool = False
    """Whether it could not be built again: another copy may be able to."""


class _Running(msgspec.Struct):
    """A destination, its outbox or what is in its place, and the tasks that run it."""

    destination: Destination
    outbox: Outbox | Pulled
    delivering: asyncio.Task[None]
    opening_past: asyncio.Task[None]


class Forwarder:
    """Runs an outbox for each destination. `prepare` and `apply` set the destinations, at the start and after each
    change. If other copies of the service share the ledger, each runs the outboxes of some of them (see `Sharing`).
    `waiting` are the consumers that wait for events to fetch.

    Each outbox is a supervised part of its own, and so is the opening of each destination's past deliveries: one
    that fails is restarted without affecting the others.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        gitlab_url: str,
        watcher: Watcher,
        supervisor: Supervisor,
        process: int = 0,
        waiting: Waiting | None = None,
    ) -> None:
        self._waiting = Waiting() if waiting is None else waiting
        self._watcher = watcher
        self._supervisor = supervisor
        self._ledger = ledger
        self._gitlab_url = gitlab_url
        self._event_id = ledger.event_ids()
        self._clock = SteadyClock()
        self._wanted: dict[str, _Wanted] = {}
        self._states: dict[str, DestinationState] = {}
        """As the ledger had them last."""
        self._running: dict[int, _Running] = {}
        self._ending: dict[int, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._sharing = Sharing(ledger.queue, self, process=process) if ledger.queue.is_shared else None

    async def prepare(self, wanted: Iterable[Destination]) -> Prepared:
        """Build what these destinations need. Nothing runs yet, and nothing changes.

        Raises whatever a kind's constructor or the compiler of a filter or transform raises.
        """
        wanted = list(wanted)
        before = {name: one.destination for name, one in self._wanted.items()}
        prepared = Prepared(wanted, {one.name: make_filter(one) for one in wanted}, {})
        try:
            for one in wanted:
                if before.get(one.name) != one:
                    prepared.built[one.name] = self._build(one)
        except BaseException:
            await prepared.discard()
            raise
        return prepared

    async def apply(self, prepared: Prepared, *, is_worker: bool = True) -> None:
        """Make these the destinations: new ones start, changed ones restart, removed ones stop. Only the worker
        changes what the ledger says of them.

        Attempts in flight end first, so that no event is in flight twice. Raises LedgerError if the ledger can't be
        written; then nothing has changed.
        """
        wanted, built = prepared.destinations, prepared.built
        if is_worker:
            specs = [as_spec(one) for one in wanted]
            self._states = state = _by_name(await self._ledger.queue.sync_destinations(specs, times.now()))
            routes = [Route(state[one.name].id, one.ordering, prepared.accepts[one.name]) for one in wanted]
            self._ledger.set_routes(routes)
        before, self._wanted = self._wanted, {}
        for one in wanted:
            kept = before.pop(one.name).built if one.name in before and one.name not in built else None
            self._wanted[one.name] = _Wanted(one, prepared.accepts[one.name], built.get(one.name, kept))
        unused = {name: one.built for name, one in before.items() if one.built is not None}
        for ident, running in list(self._running.items()):
            if running.destination.name not in self._wanted or running.destination.name in built:
                self.end(ident)
        if self._sharing is not None:
            self._sharing.look_soon()
        else:
            if self._ending:
                await asyncio.wait(self._ending.values())
            for ident in self.able() - self.there():
                self.start(ident)
        await Prepared([], {}, unused).discard()

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

    async def share(self) -> None:
        """Share the destinations with other copies, if there can be any. Never ends."""
        await (asyncio.Event().wait() if self._sharing is None else self._sharing.run())

    def opened(self, deliveries: Iterable[Opened]) -> None:
        """A commit opened deliveries, in this process or in another copy's."""
        deliveries = list(deliveries)
        self._waiting.opened({one.destination_id for one in deliveries})  # of other copies' destinations too
        for delivery in deliveries:
            running = self._running.get(delivery.destination_id)
            if running is not None:
                running.outbox.wake()

    def look_again(self) -> None:
        """Another process changed the ledger: it may have opened deliveries, or paused or resumed a destination.
        Consumers that wait are not woken by whatever was changed: they look every few seconds.
        """
        self._look.set()

    async def drain(self, patience_s: float) -> None:
        """Start no more attempts, wait `patience_s` for those in flight, then cancel them and disconnect."""
        if self._sharing is not None:
            self._sharing.leave()
        for ident in list(self._running):
            self.end(ident)
        if ending := list(self._ending.values()):
            _, late = await asyncio.wait(ending, timeout=patience_s)
            for one in late:
                one.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        built = {name: one.built for name, one in self._wanted.items() if one.built is not None}
        self._wanted.clear()
        await Prepared([], {}, built).discard()

    def able(self) -> set[int]:
        """The ids of the destinations that are in the config and in the ledger."""
        with contextlib.suppress(LedgerError):  # an outbox that has just ended may have changed it
            self._states = _by_name(self._ledger.queue.destination_states())
        return {
            state.id
            for name, state in self._states.items()
            if state.active and name in self._wanted and not self._wanted[name].is_broken
        }

    def there(self) -> set[int]:
        """The ids of the destinations whose outboxes run, or are ending."""
        return self._running.keys() | self._ending.keys()

    def start(self, destination_id: int) -> None:
        """Run the outbox of a destination that was `able` to just now, and is not `there`."""
        [state] = [one for one in self._states.values() if one.id == destination_id]
        wanted = self._wanted[state.name]
        destination = wanted.destination
        try:
            kind, formatter = wanted.built or self._build(destination)
        except (Exception, SystemExit):  # the same was built before
            log.exception("destination can't be delivered to by this copy", destination=state.name)
            wanted.is_broken = True
            return
        wanted.built = None
        outbox = self._outbox(destination, state, kind, formatter)
        route = Route(state.id, destination.ordering, wanted.accepts)
        keep = partial(self._supervisor.until_done, stopping=outbox.stopping)
        self._running[state.id] = _Running(
            destination,
            outbox,
            delivering=keep(f"outbox of {destination.name}", outbox.run),
            opening_past=keep(f"past of {destination.name}", partial(self._open_past, route, outbox)),
        )

    def _outbox(
        self, destination: Destination, state: DestinationState, kind: Kind, formatter: Formatter
    ) -> Outbox | Pulled:
        if destination.is_pulled:
            return Pulled(state, ledger=self._ledger, formatter=formatter, kind=kind, waiting=self._waiting)
        return Outbox(
            destination,
            state,
            ledger=self._ledger,
            formatter=formatter,
            kind=kind,
            watcher=self._watcher,
            clock=self._clock,
        )

    def end(self, destination_id: int) -> None:
        """Have an outbox end, after its attempts in flight. One that is ending already goes on to."""
        running = self._running.pop(destination_id, None)
        if running is None:
            return
        running.outbox.stop()
        self._ending[destination_id] = ending = asyncio.create_task(self._end(running))
        ending.add_done_callback(lambda _: self._ended(destination_id))

    def _ended(self, destination_id: int) -> None:
        del self._ending[destination_id]
        if self._sharing is not None:
            self._sharing.look_soon()

    async def _end(self, ended: _Running) -> None:
        tasks = [ended.delivering, ended.opening_past]
        try:
            await asyncio.wait(tasks)
        finally:  # also if that takes too long
            await ended.outbox.close()
            for task in tasks:
                task.cancel()
                self._supervisor.forget(task.get_name())

    def _build(self, destination: Destination) -> tuple[Kind, Formatter]:
        formatter = Formatter(destination, event_id=self._event_id, gitlab_url=self._gitlab_url)
        return find_kind(destination.kind)(destination), formatter

    async def _open_past(self, route: Route, outbox: Outbox | Pulled) -> None:
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
