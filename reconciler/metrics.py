"""What Prometheus reads. A test holds docs/grafana.json and docs/alerts.yaml against what is exposed here.

What the ledger knows (backlogs, gaps) is asked when Prometheus asks; what only a moment knows (how long a commit
took) is counted as it happens. Labels are bounded: a source is its kind without the hook's name, a kind that GitLab
does not have is `other`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlite_utils import Database

from reconciler import __version__
from reconciler.config.models import Config
from reconciler.events import times
from reconciler.events.kinds import known_kinds
from reconciler.events.times import Millis
from reconciler.ledger.coverage.gaps import Gap, is_expiring
from reconciler.ledger.coverage.hooks import hooks_off
from reconciler.ledger.errors import LedgerError
from reconciler.ledger.listener import Committed
from reconciler.ledger.storage.connection import look_at
from reconciler.ledger.upkeep.parts import Part
from reconciler.ledger.views.status import destination_statuses
from reconciler.ledger.views.unknowns import KINDS, Known, Unknown
from reconciler.sources.client import Client
from reconciler.sources.table import keeps

PREFIX = "gitlab_reconciler_"
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86400)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

_KINDS = known_kinds()

log = structlog.get_logger(__name__)


class Meters:
    """What is counted as it happens. `registry` holds it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> CounterMetric:
            return CounterMetric(PREFIX + name, what, labels, registry=self.registry)

        def histogram(name: str, what: str, *labels: str, buckets: tuple[float, ...] = LATENCIES) -> Histogram:
            return Histogram(PREFIX + name, what, labels, buckets=buckets, registry=self.registry)

        self._sightings = counter("sightings", "Reports of events that were recorded, each once.", "source", "kind")
        self._events = counter("events", "New events, by how they came to be known.", "kind", "known_by")
        self._duplicates = counter("duplicates", "Reports of events that were known already.", "source")
        self._commit = histogram("commit_seconds", "From the first statement of a commit until it is on disk.")
        self._batch = histogram("commit_sightings", "Sightings that shared one commit.", buckets=BATCHES)
        self._webhook = histogram("webhook_commit_seconds", "From a webhook's arrival until it is on disk.")
        self._attempts = counter("attempts", "Attempts to deliver, by what came of them.", "destination", "outcome")
        self._attempt = histogram("attempt_seconds", "How long an attempt took.", "destination")
        self._delivered = histogram(
            "delivered_seconds",
            "From a delivery's opening, with its event's commit, until it was taken.",
            "destination",
        )

    def committed(self, done: Committed) -> None:
        """Sightings are on disk."""
        now = times.now()
        self._commit.observe(done.seconds)
        self._batch.observe(len(done.sightings))
        seen: Counter[tuple[str, str, str]] = Counter()
        for sighting, recorded in zip(done.sightings, done.recorded, strict=True):
            source = sighting.source.partition(":")[0]
            kind = sighting.summary.kind if sighting.summary.kind in _KINDS else "other"
            by_webhook = source in ("webhook", "system_hook") and sighting.recovery is None
            known_by = "webhook" if by_webhook else "recovery"
            if by_webhook:
                self._webhook.observe(max(0, now - sighting.seen_at) / 1000)
            if not recorded.repeated:
                seen[source, kind, known_by if recorded.new_event else ""] += 1
            elif by_webhook:  # what polls read again tells nothing
                self._duplicates.labels(source).inc()
        for (source, kind, known_by), count in seen.items():  # finding a label's counter is what costs
            self._sightings.labels(source, kind).inc(count)
            if known_by:
                self._events.labels(kind, known_by).inc(count)
            else:
                self._duplicates.labels(source).inc(count)

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """An attempt ended. `waited`: since the delivery was opened, where it was taken."""
        self._attempts.labels(destination, outcome).inc()
        self._attempt.labels(destination).observe(took / 1000)
        if waited is not None:
            self._delivered.labels(destination).observe(max(0, waited) / 1000)


class Standing(Collector):
    """What the ledger knows, read by a connection of its own, in Prometheus' thread, and what it does not. `trouble`
    tells why the file at the ledger's path must not be shown.
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
        """The metrics, as they are now."""
        config, client = self._current()
        found: list[Metric] = []
        try:
            with look_at(config.ledger.path, self._trouble) as db:
                found = [*_from_ledger(db, self._known(), times.now()), _ledger_bytes(config)]
        except LedgerError as error:
            log.error("the ledger can't be read for Prometheus", reason=str(error))
        except Exception:  # what is counted in memory is told all the same
            log.exception("the ledger can't be read for Prometheus")
        yield GaugeMetricFamily(
            PREFIX + "ledger_readable", "1 where the ledger could be read for its figures, 0 where they are missing.",
            value=bool(found),
        )  # fmt: skip
        yield from found
        yield InfoMetricFamily(PREFIX + "build", "What runs.", value={"version": __version__})
        if client is None:
            return
        yield CounterMetricFamily(PREFIX + "api_requests", "Requests to GitLab's API.", value=client.requests)
        remaining = client.rate_limit.remaining
        if remaining is not None:
            yield GaugeMetricFamily(
                PREFIX + "rate_limit_remaining", "Requests that the token has left in this period.", value=remaining
            )


def _unknowns(found: list[Unknown]) -> Metric:
    """Counted by kind; all kinds are there from the start, so that a rule can be sure of them."""
    number = GaugeMetricFamily(
        PREFIX + "unknowns", "What the config names and nobody could read, or has read yet.", labels=["kind"]
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
    off = len(hooks_off(db))
    yield GaugeMetricFamily(PREFIX + "hooks_off", "Webhooks that GitLab switched off.", value=off)
    nothing = sum(len(some) for some in known.off.values())
    yield GaugeMetricFamily(
        PREFIX + "sources_off", "Sources that have nothing to read: it is switched off in their project.",
        value=nothing,
    )  # fmt: skip
    yield from _destinations(db, now)


def _gaps(found: list[Gap], now: Millis) -> Iterator[Metric]:
    labels = ["source", "state"]
    number = GaugeMetricFamily(PREFIX + "gaps", "Stretches of time not read completely.", labels=labels)
    seconds = GaugeMetricFamily(PREFIX + "gap_seconds", "Time not read completely.", labels=labels)
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

    depth = gauge("queue_depth", "Events that wait for a destination.")
    oldest = gauge("queue_oldest_seconds", "How long the oldest of them has waited.")
    dead = gauge("dead_letters", "Dead letters.")
    down = gauge("destination_down", "1 where the circuit breaker is not closed.")
    paused = gauge("destination_paused", "1 where the destination is paused.")
    for one in destination_statuses(db):
        if not one.active:
            continue
        label = [one.name]
        depth.add_metric(label, one.pending)
        waited = 0 if one.oldest_pending_at is None else max(0, now - times.from_iso(one.oldest_pending_at))
        oldest.add_metric(label, waited / 1000)
        dead.add_metric(label, one.dead)
        down.add_metric(label, one.breaker != "closed")
        paused.add_metric(label, one.paused_at is not None)
    yield from (depth, oldest, dead, down, paused)


def _ledger_bytes(config: Config) -> Metric:
    size = 0
    for suffix in ("", "-wal"):
        with suppress(OSError):
            size += config.ledger.path.with_name(config.ledger.path.name + suffix).stat().st_size
    return GaugeMetricFamily(PREFIX + "ledger_bytes", "Size of the ledger's file and its WAL.", value=size)


def state(gap: Gap, now: Millis) -> str:
    """`open`, `expiring` (GitLab is about to forget it) or `final` (it has)."""
    if gap.is_final:
        return "final"
    return "expiring" if is_expiring(gap, keeps_for=keeps()[gap.source], now=now) else "open"


class Parts(Collector):
    """How the service's own parts do: those that run in this process."""

    def __init__(self, parts: Callable[[], list[Part]]) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        """The metrics, as they are now."""
        up = GaugeMetricFamily(
            PREFIX + "part_up", "1 where a part of the service runs, 0 where it fails.", labels=["part"]
        )
        restarts = CounterMetricFamily(
            PREFIX + "part_restarts", "How often a part of the service failed and started again.", labels=["part"]
        )
        for one in self._parts():
            up.add_metric([one.name], one.failing_since is None)
            restarts.add_metric([one.name], one.restarts)
        yield from (up, restarts)
