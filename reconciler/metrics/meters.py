"""Metrics that only the moment knows, counted as they happen: reports, commits, attempts."""

from __future__ import annotations

from collections import Counter

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client import Counter as CounterMetric

from reconciler.events import times
from reconciler.events.kinds import known_kinds
from reconciler.events.times import Millis
from reconciler.ledger.listener import Committed
from reconciler.metrics import PREFIX

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86400)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_KINDS = known_kinds()


class Meters:
    """Counters and histograms, in `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> CounterMetric:
            return CounterMetric(PREFIX + name, what, labels, registry=self.registry)

        def histogram(name: str, what: str, *labels: str, buckets: tuple[float, ...] = LATENCIES) -> Histogram:
            return Histogram(PREFIX + name, what, labels, buckets=buckets, registry=self.registry)

        self._sightings = counter("sightings", "Reports of events, each counted once.", "source", "kind")
        self._events = counter("events", "New events, by how they became known.", "kind", "known_by")
        self._duplicates = counter("duplicates", "Reports of events that were already known.", "source")
        self._commit = histogram("commit_seconds", "Time from the first statement of a commit until it is on disk.")
        self._batch = histogram("commit_sightings", "Number of sightings in one commit.", buckets=BATCHES)
        self._webhook = histogram("webhook_record_seconds", "Time from a webhook's arrival until it is recorded.")
        self._attempts = counter("attempts", "Delivery attempts, by outcome.", "destination", "outcome")
        self._attempt = histogram("attempt_duration_seconds", "Duration of a delivery attempt.", "destination")
        self._delivered = histogram(
            "delivery_latency_seconds",
            "Time from opening a delivery, with the event's commit, until it is delivered.",
            "destination",
        )

    def committed(self, done: Committed) -> None:
        """Sightings were committed."""
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
            elif by_webhook:  # polls read the same records again and again
                self._duplicates.labels(source).inc()
        for (source, kind, known_by), count in seen.items():  # one lookup per label: that is what costs
            self._sightings.labels(source, kind).inc(count)
            if known_by:
                self._events.labels(kind, known_by).inc(count)
            else:
                self._duplicates.labels(source).inc(count)

    def attempted(self, destination: str, outcome: str, took: Millis, waited: Millis | None) -> None:
        """An attempt ended. `waited` is the time since the delivery was opened; None if the attempt failed."""
        self._attempts.labels(destination, outcome).inc()
        self._attempt.labels(destination).observe(took / 1000)
        if waited is not None:
            self._delivered.labels(destination).observe(max(0, waited) / 1000)
