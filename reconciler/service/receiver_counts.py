"""What the receiver counts, in memory that it shares with the worker, which shows it to Prometheus.

There is one writer for each value, so nothing is locked. A reader may see a histogram between two additions.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from reconciler.metrics import PREFIX

ACK_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STATUSES = (400, 401, 404, 405, 413, 415, 503)
PROCESSES = ("receiver", "worker")
TROUBLE_BYTES = 1024

_REJECTED = len(ACK_SECONDS) + 2
_RESTARTS = _REJECTED + len(STATUSES)
_NUMBERS = _RESTARTS + len(PROCESSES)
_TROUBLE = 8 * _NUMBERS


class ReceiverCounts(Collector):
    """Counts of webhooks, how long their acknowledgement took, and why webhooks can't be acknowledged now."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _TROUBLE + TROUBLE_BYTES)
        self._numbers = memoryview(self._memory)[:_TROUBLE].cast("d")

    def acknowledged(self, seconds: float) -> None:
        """A webhook was acknowledged this many seconds after its body was read."""
        self._numbers[bisect_left(ACK_SECONDS, seconds)] += 1
        self._numbers[len(ACK_SECONDS) + 1] += seconds

    def rejected(self, status: int) -> None:
        """A webhook was answered with this status."""
        if status in STATUSES:
            self._numbers[_REJECTED + STATUSES.index(status)] += 1

    def restarted(self, process: str) -> None:
        """A process of the service has ended and is started again."""
        self._numbers[_RESTARTS + PROCESSES.index(process)] += 1

    def restarts(self, process: str) -> int:
        """How often a process of the service was started again."""
        return int(self._numbers[_RESTARTS + PROCESSES.index(process)])

    @property
    def trouble(self) -> str | None:
        """Why webhooks can't be acknowledged; None if they can."""
        text = self._memory[_TROUBLE : _TROUBLE + TROUBLE_BYTES].rstrip(b"\0").decode("utf-8", "ignore")
        return text or None

    @trouble.setter
    def trouble(self, why: str | None) -> None:
        text = (why or "").encode("utf-8", "replace")[:TROUBLE_BYTES]
        self._memory[_TROUBLE : _TROUBLE + TROUBLE_BYTES] = text.ljust(TROUBLE_BYTES, b"\0")

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        numbers = self._numbers.tolist()
        found, so_far = [], 0.0
        for bound, count in zip((*ACK_SECONDS, float("inf")), numbers, strict=False):
            so_far += count
            found.append((_bound(bound), so_far))
        ack = HistogramMetricFamily(
            PREFIX + "webhook_ack_seconds", "Time from reading a webhook's body until it is on disk.", labels=[]
        )
        ack.add_metric([], found, numbers[len(ACK_SECONDS) + 1])
        yield ack
        rejected = CounterMetricFamily(
            PREFIX + "webhooks_rejected", "Webhooks that were not accepted, by status.", labels=["status"]
        )
        for number, status in enumerate(STATUSES):
            rejected.add_metric([str(status)], numbers[_REJECTED + number])
        yield rejected
        restarts = CounterMetricFamily(
            PREFIX + "process_restarts", "How often a process of the service was started again.", labels=["process"]
        )
        for number, process in enumerate(PROCESSES):
            restarts.add_metric([process], numbers[_RESTARTS + number])
        yield restarts


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else str(float(seconds))
