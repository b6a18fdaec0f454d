"""When traces are sent, and that nothing of it is loaded when they are not."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import pytest
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc
from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan
from trace_collector import TraceCollector, attributes, grpc_trace_collector, trace_collector

from headrace_shared.settings import TracingSettings
from headrace_shared.telemetry import otlp_spans
from headrace_shared.telemetry.tracing import Part, context_of, link_to, setup_tracing

ENDPOINT = {"exporter_otlp_endpoint": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {**ENDPOINT, "sdk_disabled": True},
        {**ENDPOINT, "traces_exporter": "none"},
        {**ENDPOINT, "exporter_otlp_protocol": "http/json"},
    ],
    ids=["no endpoint", "disabled", "no exporter", "another protocol"],
)
def test_no_traces_unless_a_collector_is_named_and_can_be_spoken_to(settings: dict[str, object]) -> None:
    assert setup_tracing("test", TracingSettings(**settings)) is None


@pytest.mark.parametrize(
    ("settings", "protocol"),
    [
        ({"exporter_otlp_endpoint": "http://c:4318"}, "http/protobuf"),
        ({"exporter_otlp_endpoint": "http://c:4317"}, "grpc"),
        ({"exporter_otlp_traces_endpoint": "grpc://c:9"}, "grpc"),
        ({"exporter_otlp_endpoint": "http://c:4317", "exporter_otlp_protocol": "http/protobuf"}, "http/protobuf"),
        ({"exporter_otlp_endpoint": "http://c:1", "exporter_otlp_traces_protocol": "grpc"}, "grpc"),
    ],
)
def test_the_protocol_is_what_was_asked_for_or_what_the_port_is_known_for(
    settings: dict[str, str], protocol: str
) -> None:
    assert TracingSettings(**settings).protocol == protocol


def test_an_endpoint_for_traces_alone_is_enough() -> None:
    assert TracingSettings(exporter_otlp_traces_endpoint="http://127.0.0.1:1/v1/traces").enabled


def test_a_process_without_traces_loads_nothing_of_opentelemetry() -> None:
    code = (
        "import sys; from headrace_shared.telemetry.tracing import setup_tracing; import headrace_worker.service.pump;"
        "assert setup_tracing('x') is None; assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={})


@pytest.mark.parametrize("text", [None, "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_name_that_names_no_span_makes_no_link(text: str | None) -> None:
    assert link_to(text) == []
    assert not context_of(text)


@pytest.mark.parametrize("collector", [trace_collector, grpc_trace_collector])
def test_both_exporters_send_what_our_encoder_makes(
    collector: Callable[[], AbstractContextManager[TraceCollector]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    def encode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        encoded.extend(span.name for span in spans)
        return otlp_spans.encode_spans(spans)

    with collector() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        tracing = setup_tracing("test")
        assert tracing is not None
        for module in (over_http, over_grpc):
            if module.encode_spans is otlp_spans.encode_spans:
                monkeypatch.setattr(module, "encode_spans", encode)
        whole = tracing.tracer.start_span("whole")
        tracing.add(whole.get_span_context(), Part("part", 1, 2, {"a": 1}, "CLIENT", [("event", 1, {"b": "c"})]))
        whole.end()
        tracing.close()
    assert encoded == ["part", "whole"]
    part, whole_span = receiver.spans
    assert (part.trace_id, part.parent_span_id) == (whole_span.trace_id, whole_span.span_id)
    assert (part.kind, attributes(part), part.events[0].name) == (Span.SPAN_KIND_CLIENT, {"a": 1}, "event")
