"""Who hears what happens, for alerts, metrics and traces, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import structlog
from sqlite_utils import Database

from reconciler.events.times import Millis
from reconciler.ledger.intake.writer import Committed
from reconciler.ledger.storage.ids import event_ids
from reconciler.metrics.meters import Meters
from reconciler.service.alerting import Alerting
from reconciler.service.errors import ServiceError
from reconciler.tracing import Traces, traces

log = structlog.get_logger(__name__)


class Watchers:
    """The forwarder's `Watcher`. Trouble of who only looks on never reaches a delivery."""

    def __init__(self, alerting: Alerting, meters: Meters, traced: Traces | None) -> None:
        self._alerting = alerting
        self._meters = meters
        self._traced = traced

    @contextmanager
    def attempting(self, event_id: str, destination: str, number: int) -> Iterator[dict[str, str]]:
        """A span, where there are traces."""
        with ExitStack() as stack:
            headers: dict[str, str] = {}
            try:
                if self._traced is not None:
                    headers = stack.enter_context(self._traced.attempting(event_id, destination, number))
            except Exception:
                log.exception("an attempt can't be traced")
            yield headers

    def trouble(self) -> None:
        """Look whether there is something to alert about."""
        self._alerting.look()

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """Count."""
        try:
            self._meters.attempted(destination, outcome, took, waited)
        except Exception:
            log.exception("an attempt can't be counted")


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

    Raises ServiceError where their libraries are missing, or do not take what the environment says.
    """
    event_id = event_ids(db)
    try:
        return traces(event_id)
    except ValueError as error:
        raise ServiceError(f"traces: {error}") from None
