"""Traces, as a collector gets them: one an event, from its arrival to every attempt, and on to the destination."""

from __future__ import annotations

import gzip
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from reconciler.simulator.consumer import ACCEPTED, Consumer, Received
from tests.conftest import MakeService, to_consumer
from tests.e2e.test_delivery import post


def spans(requests: list[Received]) -> list[Any]:
    found = []
    for request in requests:
        body = gzip.decompress(request.body) if request.body[:2] == b"\x1f\x8b" else request.body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                found += scope.spans
    return found


def test_one_trace_an_event(make_service: MakeService, consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([(503, {}, b""), ACCEPTED])
    consumer.answer = lambda _h, _b: next(answers, ACCEPTED)
    with Consumer() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        service = make_service(destinations=[to_consumer(consumer)]).start()
        for n in range(2):
            post(service, 1, n)
        assert consumer.wait_for(lambda c: len(c.accepted) == 2)
        assert service.stop() == 0
        found = spans(collector.requests)
    firsts = [span for span in found if span.name == "event x"]
    attempts = [span for span in found if span.name == "deliver consumer"]
    assert (len(firsts), len(attempts)) == (2, 3)
    assert len({span.trace_id for span in firsts}) == 2
    assert all(not span.parent_span_id for span in firsts)
    first_of = {span.trace_id: span.span_id for span in firsts}
    assert all(first_of[span.trace_id] == span.parent_span_id for span in attempts)
    sent = {request.headers["traceparent"] for request in consumer.requests}
    assert sent == {f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01" for span in attempts}


def test_without_a_collector_nothing_is_sent_along(make_service: MakeService, consumer: Consumer) -> None:
    service = make_service(destinations=[to_consumer(consumer)]).start()
    post(service, 1, 1)
    assert consumer.wait_for(lambda c: len(c.accepted) == 1)
    assert "traceparent" not in consumer.requests[0].headers


def test_a_missing_library_is_named(make_service: MakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    service = make_service()
    service.write_config()
    code = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None; "
        "sys.argv[1:] = ['serve', '-c', sys.argv[1]]; from reconciler.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(service.file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "pip install 'gitlab-reconciler[otel]'" in done.stderr) == (1, True)
