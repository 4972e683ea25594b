"""Metrics that are looked up when Prometheus asks: what the ledger knows, and how the parts of the service do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from reconciler import __version__
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.times import Millis
from reconciler.ledger.coverage.gaps import Gap, is_expiring
from reconciler.ledger.coverage.hooks import disabled_hooks
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.recording.unrecorded import counted
from reconciler.ledger.storage.connection import look_at
from reconciler.ledger.storage.database import Database
from reconciler.ledger.upkeep.failing_parts import Part
from reconciler.ledger.views.backlog import backlog
from reconciler.ledger.views.status import destination_statuses
from reconciler.ledger.views.unknowns import KINDS, RECEIVER, Known, Unknown
from reconciler.metrics import PREFIX
from reconciler.sources.client import Client
from reconciler.sources.table import keeps

log = structlog.get_logger(__name__)


class LedgerCollector(Collector):
    """The state of the ledger, read with its own connection in the thread of the metrics server.

    `trouble` says why the file at the ledger's path must not be read; None if it may be.
    """

    def __init__(
        self,
        current: Callable[[], tuple[Config, Client | None]],
        known: Callable[[], Known],
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._current = current
        self._known = known
        self._trouble = trouble

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        config, client = self._current()
        found: list[Metric] = []
        try:
            with look_at(config.ledger.location, self._trouble) as db:
                found = [*_from_ledger(db, self._known(), times.now()), _ledger_bytes(db)]
        except LedgerError as error:
            log.error("the ledger can't be read for Prometheus", reason=str(error))
        except Exception:  # the metrics in memory are exposed all the same
            log.exception("the ledger can't be read for Prometheus")
        yield GaugeMetricFamily(
            PREFIX + "ledger_readable", "1 if the ledger could be read for metrics, 0 if its metrics are missing.",
            value=bool(found),
        )  # fmt: skip
        yield from found
        yield InfoMetricFamily(PREFIX + "build", "The version that is running.", value={"version": __version__})
        if client is None:
            return
        yield CounterMetricFamily(PREFIX + "api_requests", "Requests to GitLab's API.", value=client.requests)
        remaining = client.rate_limit.remaining
        if remaining is not None:
            yield GaugeMetricFamily(
                PREFIX + "rate_limit_remaining",
                "Requests left to the token in the current period.",
                value=remaining,
            )


def _unknowns(found: list[Unknown]) -> Metric:
    """Counted by kind. All kinds are always present, so that alert rules can rely on them."""
    number = GaugeMetricFamily(
        PREFIX + "unknowns", "Parts of the config that could not be read, or have not been read yet.", labels=["kind"]
    )
    counts = Counter(dict.fromkeys(KINDS, 0))
    for one in found:
        counts[one.kind] += one.count
    for kind, count in counts.items():
        number.add_metric([kind], count)
    return number


def _from_ledger(db: Database, known: Known, now: Millis) -> Iterator[Metric]:
    yield _unknowns(known.unknowns)
    yield from _gaps(known.gaps, now)
    down = any((one.kind, one.name) == ("part", RECEIVER) for one in known.unknowns)
    yield GaugeMetricFamily(
        PREFIX + "receiver_up", "1 if a receiver runs and accepts webhooks, 0 if none does.", value=not down
    )
    disabled = len(disabled_hooks(db))
    yield GaugeMetricFamily(PREFIX + "hooks_disabled", "Webhooks that GitLab has disabled.", value=disabled)
    nothing = sum(len(some) for some in known.switched_off.values())
    yield GaugeMetricFamily(
        PREFIX + "sources_switched_off",
        "Sources with nothing to read, because their feature is switched off in the project.",
        value=nothing,
    )
    yield from _intake(db, now)
    yield from _destinations(db, now)


def _intake(db: Database, now: Millis) -> Iterator[Metric]:
    waits, failed = backlog(db), counted(db)
    pending = GaugeMetricFamily(PREFIX + "intake_pending", "Acknowledged webhooks that wait to be recorded.")
    oldest = GaugeMetricFamily(PREFIX + "intake_oldest_seconds", "How long the oldest of them has been waiting.")
    if waits.error is None:  # else nobody knows: a 0 would say that all is well
        waited = 0 if waits.oldest_at is None else max(0, now - times.from_iso(waits.oldest_at))
        pending.add_metric([], waits.waiting)
        oldest.add_metric([], waited / 1000)
    yield from (pending, oldest)
    yield GaugeMetricFamily(
        PREFIX + "webhooks_unrecorded", "Acknowledged webhooks that could not be recorded.",
        value=0 if failed is None else failed.count,
    )  # fmt: skip


def _gaps(found: list[Gap], now: Millis) -> Iterator[Metric]:
    labels = ["source", "state"]
    number = GaugeMetricFamily(PREFIX + "gaps", "Time ranges that were not read completely.", labels=labels)
    seconds = GaugeMetricFamily(PREFIX + "gap_seconds", "Total length of these time ranges.", labels=labels)
    counts: Counter[tuple[str, str]] = Counter()
    lengths: Counter[tuple[str, str]] = Counter()
    for gap in found:
        key = (gap.source, state(gap, now))
        counts[key] += 1
        lengths[key] += gap.during.end - gap.during.start
    for key, count in counts.items():
        number.add_metric(key, count)
        seconds.add_metric(key, lengths[key] / 1000)
    yield number
    yield seconds


def _destinations(db: Database, now: Millis) -> Iterator[Metric]:
    def gauge(name: str, what: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(PREFIX + name, what, labels=["destination"])

    depth = gauge("queue_depth", "Events that are pending for a destination.")
    oldest = gauge("queue_oldest_seconds", "How long the oldest pending event has been waiting.")
    dead_letters = gauge("dead_letters", "Dead letters.")
    down = gauge("destination_down", "1 if the circuit breaker is not closed.")
    paused = gauge("destination_paused", "1 if the destination is paused.")
    delivering = GaugeMetricFamily(
        PREFIX + "destination_delivered_by", "1 for the copy of the service that delivers, with PostgreSQL.",
        labels=["destination", "copy"],
    )  # fmt: skip
    for one in destination_statuses(db):
        if not one.active:
            continue
        label = [one.name]
        depth.add_metric(label, one.pending)
        waited = 0 if one.oldest_pending_at is None else max(0, now - times.from_iso(one.oldest_pending_at))
        oldest.add_metric(label, waited / 1000)
        dead_letters.add_metric(label, one.dead_letters)
        down.add_metric(label, one.breaker != "closed")
        paused.add_metric(label, one.paused_at is not None)
        if one.delivered_by is not None:
            delivering.add_metric([one.name, one.delivered_by], 1)
    yield from (depth, oldest, dead_letters, down, paused, delivering)


def _ledger_bytes(db: Database) -> Metric:
    return GaugeMetricFamily(
        PREFIX + "ledger_bytes",
        "Size of the ledger: its file and the WAL, or its tables in PostgreSQL.",
        value=db.size_bytes(),
    )


def state(gap: Gap, now: Millis) -> str:
    """`open`, `expiring` (GitLab is about to delete the data) or `final` (it has deleted it)."""
    if gap.is_final:
        return "final"
    return "expiring" if is_expiring(gap, keeps_for=keeps()[gap.source], now=now) else "open"


class PartsCollector(Collector):
    """The parts of the service that run in this process."""

    def __init__(self, parts: Callable[[], list[Part]]) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        up = GaugeMetricFamily(
            PREFIX + "part_up", "1 if a part of the service is running, 0 if it is failing.", labels=["part"]
        )
        restarts = CounterMetricFamily(
            PREFIX + "part_restarts", "How often a part of the service failed and was restarted.", labels=["part"]
        )
        for one in self._parts():
            up.add_metric([one.name], one.failing_since is None)
            restarts.add_metric([one.name], one.restarts)
        yield from (up, restarts)
