"""Who hears what happens, for alerts, metrics and traces, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog

from reconciler.events.times import Millis
from reconciler.ledger.listener import Committed, Listener
from reconciler.ledger.queue.opening import Opened
from reconciler.metrics import Meters
from reconciler.service.alerting import Alerting
from reconciler.service.errors import ServiceError
from reconciler.supervisor import Supervisor
from reconciler.tracing import Traces, traces

LEDGER, FILE = "ledger", "ledger file"

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


class LedgerListener(Listener):
    """Hands what the ledger reports to the parts of the service that want to know.

    The ledger is a part of its own (`LEDGER`), which all others need, and so is its file (`FILE`).
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
    """Traces, where the environment asks for them.

    Raises ServiceError where their libraries are missing, or do not take what the environment says.
    """
    try:
        return traces(event_id)
    except ValueError as error:
        raise ServiceError(f"traces: {error}") from None
