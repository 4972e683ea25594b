"""OpenTelemetry traces, where they are asked for: one trace an event, from its arrival to every attempt at it.

A trace's id is made of the event's, and so is the id of its first span: every attempt, after a restart too, finds
its trace without anything being stored. Destinations are told by `traceparent` (W3C Trace Context), so that their
spans join in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from reconciler.ledger.listener import Committed

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ASKED_FOR = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
MILLION = 1_000_000

log = structlog.get_logger(__name__)


class Traces:
    """Makes spans. `event_id` gives an event its id for the outside."""

    def __init__(self, provider: TracerProvider, ids: Any, event_id: Callable[[int], str]) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("gitlab-reconciler")
        self._ids = ids
        self._event_id = event_id

    def committed(self, done: Committed) -> None:
        """New events are on disk: each gets its first span, from arrival to commit."""
        from opentelemetry.trace import SpanKind

        for sighting, recorded in zip(done.sightings, done.recorded, strict=True):
            if not recorded.new_event:
                continue
            event_id = self._event_id(recorded.event_id)
            with self._ids.fixed(*_ids_of(event_id)):
                span = self._tracer.start_span(
                    f"event {sighting.summary.kind}",
                    context=_nothing(),
                    kind=SpanKind.SERVER,
                    start_time=sighting.seen_at * MILLION,
                    attributes={
                        "gitlab_reconciler.event_id": event_id,
                        "gitlab_reconciler.source": sighting.source,
                        "gitlab.project_id": sighting.summary.project_id or 0,
                    },
                )
            span.end()

    @contextmanager
    def attempting(self, event_id: str, destination: str, number: int) -> Iterator[dict[str, str]]:
        """A span around one attempt; what it yields are headers for the destination."""
        from opentelemetry import trace
        from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

        trace_id, root = _ids_of(event_id)
        first = SpanContext(trace_id, root, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        with self._tracer.start_as_current_span(
            f"deliver {destination}",
            context=trace.set_span_in_context(NonRecordingSpan(first), _nothing()),
            kind=SpanKind.PRODUCER,
            attributes={
                "gitlab_reconciler.event_id": event_id,
                "gitlab_reconciler.destination": destination,
                "gitlab_reconciler.attempt": number,
            },
        ) as span:
            own = span.get_span_context()
            yield {"traceparent": f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"}

    def close(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()


def traces(event_id: Callable[[int], str]) -> Traces | None:
    """Traces, where the environment names a collector; None where it does not.

    Raises ValueError where the libraries are missing.
    """
    if not any(os.environ.get(name) for name in ASKED_FOR):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ValueError(
            f"{' or '.join(ASKED_FOR)} is set: traces need libraries: pip install 'gitlab-reconciler[otel]'"
        ) from None
    ids = _ids()
    name = os.environ.get("OTEL_SERVICE_NAME", "gitlab-reconciler")
    provider = TracerProvider(id_generator=ids, resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider, ids, event_id)


def _ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class FixedOrRandom(RandomIdGenerator):
        """Random ids, but for the one span whose ids are given. Spans are started on the event loop's thread only."""

        def __init__(self) -> None:
            self._given: tuple[int, int] | None = None

        @contextmanager
        def fixed(self, trace_id: int, span_id: int) -> Iterator[None]:
            self._given = (trace_id, span_id)
            try:
                yield
            finally:
                self._given = None

        def generate_trace_id(self) -> int:
            return self._given[0] if self._given else super().generate_trace_id()

        def generate_span_id(self) -> int:
            return self._given[1] if self._given else super().generate_span_id()

    return FixedOrRandom()


def _ids_of(event_id: str) -> tuple[int, int]:
    """The ids of an event's trace and of its first span."""
    digest = hashlib.sha256(event_id.encode()).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


def _nothing() -> Any:
    from opentelemetry.context import Context

    return Context()
