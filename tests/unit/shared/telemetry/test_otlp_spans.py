"""What is sent of spans is, field by field, what the SDK would send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_spans_by_sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from headrace_shared.telemetry.otlp_spans import encode_spans

RESOURCE = Resource({"service.name": "test"})
SCOPE = InstrumentationScope("headrace", "")
texts = st.text(max_size=200)
numbers = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(texts, numbers, st.booleans(), st.floats(allow_nan=False), st.lists(texts, max_size=3))
attributes = st.dictionaries(texts, values, max_size=8)
moments = st.integers(0, 2**64 - 1)
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(1)),
    st.sampled_from([TraceState(), TraceState([("vendor", "1"), ("b", "2")])]),
)
spans = st.builds(
    ReadableSpan,
    name=texts,
    context=contexts,
    parent=st.none() | contexts,
    resource=st.just(RESOURCE),
    attributes=attributes,
    events=st.lists(st.builds(Event, texts, attributes, moments), max_size=2),
    links=st.lists(st.builds(Link, contexts, attributes), max_size=2),
    kind=st.sampled_from(SpanKind),
    status=st.sampled_from([Status(), Status(StatusCode.OK), Status(StatusCode.ERROR, "what happened")]),
    start_time=moments,
    end_time=moments,
    instrumentation_scope=st.just(SCOPE),
)


@given(st.lists(spans, min_size=1, max_size=4))
def test_any_spans_are_said_as_the_sdk_says_them(batch: list[ReadableSpan]) -> None:
    assert encode_spans(batch) == encode_spans_by_sdk(batch)


def test_what_the_sdks_limits_dropped_is_told() -> None:
    ended: list[ReadableSpan] = []

    class Keep(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(span)

    limits = SpanLimits(max_span_attributes=2, max_events=1, max_links=1, max_event_attributes=1)
    provider = TracerProvider(resource=RESOURCE, span_limits=limits)
    provider.add_span_processor(Keep())
    many = {"a": 1, "b": 2, "c": 3}
    for _ in range(2):
        context = SpanContext(1, 2, is_remote=True)
        span = provider.get_tracer("headrace").start_span("s", attributes=many, links=[Link(context), Link(context)])
        span.add_event("first")
        span.add_event("second", many)
        span.end()
    told = encode_spans(ended)
    assert told == encode_spans_by_sdk(ended)
    last = told.resource_spans[0].scope_spans[0].spans[1]
    assert (last.dropped_attributes_count, last.dropped_events_count, last.dropped_links_count) == (1, 1, 1)


def _span(*, resource: Resource = RESOURCE, scope: InstrumentationScope = SCOPE, value: object = 1) -> ReadableSpan:
    context = SpanContext(1, 2, is_remote=False)
    plain = {"resource": resource, "instrumentation_scope": scope, "start_time": 1, "end_time": 2}
    return ReadableSpan("s", context, attributes={"a": value}, **plain)  # type: ignore[dict-item,arg-type]


@pytest.mark.parametrize(
    "other",
    [
        _span(resource=Resource({"service.name": "another"})),
        _span(scope=InstrumentationScope("somebody's")),
        _span(value=b"bytes"),
        _span(value={"a": {"b": [1, "2"]}}),
        _span(value=[1, 2.5, True, "x"]),
        _span(value="\ud800"),
    ],
    ids=["another resource", "another library", "bytes", "nested", "mixed", "no text"],
)
def test_spans_that_are_not_ours_are_said_as_the_sdk_says_them(other: ReadableSpan) -> None:
    batch = [_span(), other, _span()]
    assert encode_spans(batch) == encode_spans_by_sdk(batch)
