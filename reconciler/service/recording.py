"""The parts of the worker that take webhooks from the intake."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from reconciler.events.hook_tests import ExpectedTests
from reconciler.ledger.intake import places
from reconciler.ledger.ledger import Ledger
from reconciler.ledger.queue.opening import Opened
from reconciler.location import Location
from reconciler.recorder.reading import WebhookReader
from reconciler.recorder.recorder import Recorder
from reconciler.recorder.trimmer import Trimmer
from reconciler.service.receiver_watch import watch_receiver
from reconciler.service.role import Link
from reconciler.supervisor import Run, Supervisor


class Recording:
    """The recorder and what belongs to it. It records nothing before `begin`: another copy may be the worker."""

    def __init__(self, location: Location, ledger: Ledger, expected_tests: ExpectedTests) -> None:
        self._location = location
        self._ledger = ledger
        self._expected_tests = expected_tests
        self._recorder: Recorder | None = None

    def begin(self) -> None:
        """This process is the worker, and the ledger knows the destinations: go on from what it has."""
        reader = WebhookReader(self._ledger.coverage.project_ids(), self._expected_tests)
        self._recorder = Recorder(places.opener(self._location), ledger=self._ledger, reader=reader)

    async def run(self) -> None:
        """Record all the while, after `begin`."""
        if self._recorder is not None:
            await self._recorder.run()

    async def trim(self) -> None:
        """Remove what was recorded from the intake, all the while, after `begin`."""
        await Trimmer(places.opener(self._location), ledger=self._ledger).run()

    async def drain(self, patience_s: float) -> None:
        """Wait until the webhooks in the intake are recorded."""
        if self._recorder is not None:
            await self._recorder.drain(patience_s)

    def look_again(self) -> None:
        """Another process changed the ledger."""
        if self._recorder is not None:
            self._recorder.look_again()

    def listeners(
        self, link: Link | None, supervisor: Supervisor, opened: Callable[[Iterable[Opened]], None]
    ) -> dict[str, Run]:
        """The parts that hear of new webhooks, and of deliveries that other copies `opened`, by name."""
        parts: dict[str, Run] = {}
        if (listen := places.listener(self._location)) is not None:
            parts["listener"] = lambda: listen(self._wake, opened)
        if link is not None:
            parts["receiver watch"] = lambda: watch_receiver(link, self._wake, supervisor)
        return parts

    def _wake(self) -> None:
        if self._recorder is not None:
            self._recorder.wake()
