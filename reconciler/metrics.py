"""What Prometheus reads of the reconciling side: gaps, webhooks that are off, requests, what remains of the limit.

Everything is asked when Prometheus asks; nothing is counted twice or kept in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from reconciler.config.models import Config
from reconciler.events import times
from reconciler.ledger.connection import connect
from reconciler.ledger.gaps import Gap, gaps, is_expiring
from reconciler.ledger.hooks import all_hooks
from reconciler.reconcile.rounds import expected
from reconciler.sources.client import Client
from reconciler.sources.table import keeps


class Reconciliation(Collector):
    """Reads the ledger by a connection of its own, in Prometheus' thread."""

    def __init__(self, current: Callable[[], tuple[Config, Client | None]]) -> None:
        self._current = current

    def collect(self) -> Iterator[Metric]:
        """The metrics, as they are now."""
        now = times.now()
        config, client = self._current()
        with closing(connect(config.ledger.path, readonly=True)) as db:
            found = gaps(db, keeps=keeps(), expected=expected(config, now), now=now)
            hooks_off = sum(hook.is_off for hook in all_hooks(db))
        number = GaugeMetricFamily(
            "gitlab_reconciler_gaps", "Stretches of time not read completely.", labels=["source", "state"]
        )
        seconds = GaugeMetricFamily(
            "gitlab_reconciler_gap_seconds", "Time not read completely.", labels=["source", "state"]
        )
        counts: Counter[tuple[str, str]] = Counter()
        lengths: Counter[tuple[str, str]] = Counter()
        for gap in found:
            labels = (gap.source, state(gap, now))
            counts[labels] += 1
            lengths[labels] += gap.during.end - gap.during.start
        for labels, count in counts.items():
            number.add_metric(labels, count)
            seconds.add_metric(labels, lengths[labels] / 1000)
        yield number
        yield seconds
        yield GaugeMetricFamily("gitlab_reconciler_hooks_off", "Webhooks that GitLab switched off.", value=hooks_off)
        if client is None:
            return
        yield CounterMetricFamily(
            "gitlab_reconciler_api_requests", "Requests to GitLab's API.", value=client.requests
        )
        remaining = client.rate_limit.remaining
        if remaining is not None:
            name = "gitlab_reconciler_rate_limit_remaining"
            yield GaugeMetricFamily(name, "Requests that the token has left in this period.", value=remaining)


def state(gap: Gap, now: int) -> str:
    """`open`, `expiring` (GitLab is about to forget it) or `final` (it has)."""
    if gap.is_final:
        return "final"
    return "expiring" if is_expiring(gap, keeps_for=keeps()[gap.source], now=now) else "open"


def serve_metrics(host: str, port: int, current: Callable[[], tuple[Config, Client | None]]) -> None:
    """Answer at `/metrics`, from a thread. `current` is the config, and the client that asks GitLab, if one does.

    Raises OSError where the port can't be had.
    """
    registry = CollectorRegistry()
    registry.register(Reconciliation(current))
    start_http_server(port, addr=host, registry=registry)
