"""The receiver and the recorder in the process of a test, around a ledger that the test has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from receiver.app import receiver_app
from reconciler.config.models import Receiver
from reconciler.events.hook_tests import ExpectedTests
from reconciler.ledger.intake.intake import Appender
from reconciler.ledger.intake.places import appender, opener
from reconciler.ledger.ledger import Ledger
from reconciler.location import Location
from reconciler.recorder.reading import WebhookReader
from reconciler.recorder.recorder import Recorder
from reconciler.service.receiver_counts import ReceiverCounts


class Receiving:
    """`app` receives, and what it acknowledges is recorded."""

    def __init__(self, app: ASGIApp, intake: Appender, recorder: Recorder) -> None:
        self.app = app
        self.intake = intake
        self.recorder = recorder

    async def recorded(self) -> None:
        """Wait until all that was acknowledged is recorded."""
        await self.recorder.drain(30)


@asynccontextmanager
async def receiving(
    config: Receiver, *, ledger: Ledger, path: Location, expected_tests: ExpectedTests | None = None
) -> AsyncIterator[Receiving]:
    """Receive and record into the ledger at `path`. At the end, all that was acknowledged is recorded."""
    reader = WebhookReader(
        ledger.coverage.project_ids(), ExpectedTests() if expected_tests is None else expected_tests
    )
    recorder = Recorder(opener(path), ledger=ledger, reader=reader)
    intake = appender(path, appended=recorder.wake)
    await intake.check_writable()
    running = asyncio.create_task(recorder.run())
    made = Receiving(receiver_app(config, intake=intake, observer=ReceiverCounts()), intake, recorder)
    try:
        yield made
    finally:
        if not running.done():
            await made.recorded()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await intake.close()
