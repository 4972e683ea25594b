"""All destinations together: each has its own outbox, so that none waits for another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial

import msgspec
import structlog

from reconciler.config.destinations import Destination
from reconciler.config.kinds import find_kind
from reconciler.events import times
from reconciler.events.times import Millis, SteadyClock
from reconciler.forwarding.filters import Test, accepting
from reconciler.forwarding.formats import Formatter
from reconciler.forwarding.kind import Kind
from reconciler.forwarding.outbox import LOOK_S, Outbox, Watcher
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue.destinations import DestinationSpec, DestinationState
from reconciler.ledger.queue.opening import Opened
from reconciler.ledger.queue.routes import Route
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
        specs = [as_spec(one) for one in wanted]
        state = _by_name(await self._ledger.queue.sync_destinations(specs, times.now()))
        routes = {one.name: Route(state[one.name].id, one.ordering, prepared.accepts[one.name]) for one in wanted}
        self._ledger.set_routes(list(routes.values()))
        unchanged = {state[one.name].id for one in wanted if one.name not in built}
        await asyncio.gather(*(self._end(ident) for ident in self._running.keys() - unchanged))
        with contextlib.suppress(LedgerError):  # what has just ended may have changed it
            state = _by_name(self._ledger.queue.destination_states())
        for one in wanted:
            if one.name in built:
                self._start(one, state[one.name], routes[one.name], *built[one.name])

    async def run(self) -> None:
        """Never ends: asks the ledger how the destinations stand, when told to, and in any case every few seconds."""
        while True:
            self._look.clear()
            for state in self._ledger.queue.destination_states():
                if state.id in self._running:
                    self._running[state.id].outbox.look_again(state)
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
        more = True
        while more and not outbox.stopping.is_set():
            more = await self._ledger.queue.open_past_deliveries(route, times.now())
            outbox.wake()


def _by_name(some: Iterable[DestinationState]) -> dict[str, DestinationState]:
    return {one.name: one for one in some}


def as_spec(destination: Destination) -> DestinationSpec:
    """A destination as the ledger knows it."""
    start = destination.start
    return DestinationSpec(
        destination.name,
        destination.ordering,
        start if isinstance(start, str) else Millis(round(start.timestamp() * 1000)),
    )
