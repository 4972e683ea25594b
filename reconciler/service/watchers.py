"""Passes attempts and commits on to alerts, metrics and traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import structlog
from sqlite_utils import Database

from reconciler.events.times import Millis
from reconciler.ledger.intake.writer import Committed
from reconciler.ledger.storage.ids import event_ids
from reconciler.metrics import Meters
from reconciler.service.alerting import Alerting
from reconciler.service.errors import ServiceError
from reconciler.tracing import Traces, traces

log = structlog.get_logger(__name__)


class Watchers:
    """The forwarder's `Watcher`. Errors in metrics or traces never affect a delivery."""

    def __init__(self, alerting: Alerting, meters: Meters, traced: Traces | None) -> None:
        self._alerting = alerting
        self._meters = meters
        self._traced = traced

    @contextmanager
    def attempting(self, event_id: str, destination: str, number: int) -> Iterator[dict[str, str]]:
        """Open a span, if there are traces."""
        with ExitStack() as stack:
            headers: dict[str, str] = {}
            try:
                if self._traced is not None:
                    headers = stack.enter_context(self._traced.attempting(event_id, destination, number))
            except Exception:
                log.exception("attempt not traced")
            yield headers

    def trouble(self) -> None:
        """Check whether an alert is needed."""
        self._alerting.look()

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """Count the attempt."""
        try:
            self._meters.attempted(destination, outcome, took, waited)
        except Exception:
            log.exception("attempt not counted")


def on_committed(meters: Meters | None, traced: Traces | None) -> Callable[[Committed], None] | None:
    """The callback for each commit with sightings; None if there are neither metrics nor traces."""
    wanted = [one.committed for one in (meters, traced) if one is not None]
    if not wanted:
        return None

    def report(done: Committed) -> None:
        for committed in wanted:
            committed(done)

    return report


def start_traces(db: Database) -> Traces | None:
    """Traces, if the environment asks for them, else None.

    Raises ServiceError if their libraries are missing or reject the environment's settings.
    """
    event_id = event_ids(db)
    try:
        return traces(event_id)
    except ValueError as error:
        raise ServiceError(f"traces: {error}") from None
