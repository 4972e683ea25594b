"""Who hears what happens, for alerts, metrics and traces, put together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from sqlite_utils import Database

from reconciler.events.times import Millis
from reconciler.ledger.ids import event_ids
from reconciler.ledger.writer import Committed
from reconciler.metrics import Meters
from reconciler.service.alerting import Alerting
from reconciler.service.web import ServiceError
from reconciler.tracing import Traces, traces


class Watchers:
    """The forwarder's `Watcher`."""

    def __init__(self, alerting: Alerting, meters: Meters, traced: Traces | None) -> None:
        self._alerting = alerting
        self._meters = meters
        self._traced = traced

    def attempting(self, event_id: str, destination: str, number: int) -> AbstractContextManager[dict[str, str]]:
        """A span, where there are traces."""
        if self._traced is None:
            return nullcontext({})
        return self._traced.attempting(event_id, destination, number)

    def trouble(self) -> None:
        """Look whether there is something to alert about."""
        self._alerting.look()

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """Count."""
        self._meters.attempted(destination, outcome, took, waited)


def on_committed(meters: Meters | None, traced: Traces | None) -> Callable[[Committed], None] | None:
    """What is to be called after each commit with sightings; None where nobody wants to know."""
    wanted = [one.committed for one in (meters, traced) if one is not None]
    if not wanted:
        return None

    def tell(done: Committed) -> None:
        for committed in wanted:
            committed(done)

    return tell


def start_traces(db: Database) -> Traces | None:
    """Traces, where the environment asks for them.

    Raises ServiceError where their libraries are missing.
    """
    try:
        return traces(event_ids(db))
    except ValueError as error:
        raise ServiceError(str(error)) from None
