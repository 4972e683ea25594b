"""Passes attempts and commits on to alerts, metrics and traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog

from reconciler.events.times import Millis
from reconciler.ledger.listener import Committed, Listener
from reconciler.ledger.queue.opening import Opened
from reconciler.metrics.meters import Meters
from reconciler.service.alerting import Alerting
from reconciler.service.errors import ServiceError
from reconciler.supervisor import Supervisor
from reconciler.tracing import Traces, traces

LEDGER, FILE = "ledger", "ledger file"

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
            except Exception:  # the attempt is made without a trace
                log.exception("attempt not traced")
            yield headers

    def trouble(self) -> None:
        """Check whether an alert is needed."""
        self._alerting.check_soon()

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """Count the attempt."""
        try:
            self._meters.attempted(destination, outcome, took, waited)
        except Exception:  # the outcome of the attempt counts, not its metrics
            log.exception("attempt not counted")


class LedgerListener(Listener):
    """Passes what the ledger reports to the parts of the service that need it.

    The ledger counts as a part (`LEDGER`), since all others need it, and so does its file (`FILE`).
    """

    def __init__(
        self,
        *,
        opened: Callable[[Sequence[Opened]], None],
        meters: Meters | None,
        traced: Traces | None,
        supervisor: Supervisor,
    ) -> None:
        self._opened = opened
        self._committed = [one.committed for one in (meters, traced) if one is not None]
        self._supervisor = supervisor

    def opened(self, deliveries: Sequence[Opened]) -> None:
        self._opened(deliveries)

    def committed(self, done: Committed) -> None:
        for committed in self._committed:
            committed(done)

    def trouble(self, reason: str | None) -> None:
        self._supervisor.note(LEDGER, reason)

    def damage(self, reason: str) -> None:
        self._supervisor.note(FILE, reason)


def start_traces(event_id: Callable[[int], str]) -> Traces | None:
    """Traces, if the environment asks for them, else None.

    Raises ServiceError if their libraries are missing or reject the environment's settings.
    """
    try:
        return traces(event_id)
    except ValueError as error:
        raise ServiceError(f"traces: {error}") from None
