"""Spans for an OpenTelemetry collector, when the environment names one; otherwise nothing of it is even imported.

What the ``OTEL_*`` variables say is left to the SDK, but for those that switch it on or off and choose the protocol.
Spans leave the process in a thread of their own and are dropped when they cannot: serving never waits for them.
"""

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headrace_shared.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.trace import Link, Span, SpanContext, Tracer

log = logging.getLogger(__name__)

_LAST_SPANS_S = 2.0
"""How long the last spans may take to leave when the process ends."""
INSTALL = "headrace[otel]"
_SCOPE = "headrace"


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is over and was a part of something longer. Nanoseconds of wall clock.

    ``kind`` is a name of OpenTelemetry's ``SpanKind``; ``events`` are (name, when, attributes).
    """

    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "INTERNAL"
    events: Sequence[tuple[str, int, Mapping[str, Any]]] = ()


class Tracing:
    """A process's way to the collector, from ``setup_tracing``."""

    def __init__(self, provider: "TracerProvider", processor: "BatchSpanProcessor", *, content: bool = False) -> None:
        """``content``: prompts and answers may be part of spans."""
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._provider = provider
        self._processor = processor
        self._scope = InstrumentationScope(_SCOPE, "")
        self.tracer: Tracer = provider.get_tracer(_SCOPE)
        self.content = content

    def add(self, below: "SpanContext", part: Part) -> None:
        """A span of a part, below one that is sampled; a fifth of what it costs to open and close one."""
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind

        span_id = self._provider.id_generator.generate_span_id()
        span = ReadableSpan(
            name=part.name,
            context=SpanContext(below.trace_id, span_id, False, below.trace_flags, below.trace_state),
            parent=below,
            resource=self._provider.resource,
            attributes=part.attributes,
            events=[Event(name, attributes, moment_ns) for name, moment_ns, attributes in part.events],
            kind=SpanKind[part.kind],
            start_time=part.start_ns,
            end_time=part.end_ns,
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(span)

    def close(self) -> None:
        """Send what is left, for a moment; blocks meanwhile."""
        # The SDK's own waits half a minute for a collector that does not answer.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(_LAST_SPANS_S)


def setup_tracing(service: str, settings: TracingSettings | None = None) -> Tracing | None:
    """None when no collector is named, or nothing can be sent there, which is logged.

    ``service`` is the ``service.name`` of the spans unless the environment has another.
    """
    settings = settings or TracingSettings()
    if not settings.enabled:
        return None
    try:
        exporter = _exporter(settings)
    except ImportError:
        log.warning("no traces: the exporter is missing", extra={"install": INSTALL, "protocol": settings.protocol})
        return None
    if exporter is None:
        log.warning("no traces: the protocol must be grpc or http/protobuf", extra={"protocol": settings.protocol})
        return None
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource_of(service), shutdown_on_exit=False)
    processor = BatchSpanProcessor(exporter)
    provider.add_span_processor(processor)
    return Tracing(provider, processor, content=settings.instrumentation_genai_capture_message_content)


def resource_of(service: str) -> "Resource":
    """What says which process speaks: the environment's attributes, with ``service`` where it names none."""
    from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_INSTANCE_ID, SERVICE_NAME, Resource

    resource = Resource.create({PROCESS_PID: os.getpid()})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    if SERVICE_INSTANCE_ID not in resource.attributes:
        resource = resource.merge(Resource({SERVICE_INSTANCE_ID: f"{os.uname().nodename}-{os.getpid()}"}))
    return resource


def _exporter(settings: TracingSettings) -> "SpanExporter | None":
    if settings.protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http

        _hasten(over_http)
        return over_http.OTLPSpanExporter()
    if settings.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc

        _hasten(over_grpc)
        return over_grpc.OTLPSpanExporter(**grpc_options(settings.endpoint or ""))
    return None


def _hasten(exporter: ModuleType) -> None:
    """Have its exporter, which looks its encoder up in its module whenever it sends, use ours."""
    from headrace_shared.telemetry.otlp_spans import encode_spans

    # One that looks elsewhere goes on as it is, only dearer.
    exporter.__dict__["encode_spans"] = encode_spans


def grpc_options(endpoint: str) -> dict[str, Any]:
    """The SDK alone would encrypt for grpc:// and for bare addresses; as elsewhere, only https:// asks for that."""
    return {"insecure": True} if endpoint.startswith("grpc://") or "://" not in endpoint else {}


def context_of(traceparent: str | None, tracestate: str | None = None) -> "Context":
    """The context for children of a span of another process; an empty one when the text names none."""
    from opentelemetry.context import Context

    if traceparent is None:
        return Context()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name: text for name, text in (("traceparent", traceparent), ("tracestate", tracestate)) if text}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def span_context_in(context: "Context") -> "SpanContext | None":
    """The name of the span in a context."""
    from opentelemetry.trace import get_current_span

    found = get_current_span(context).get_span_context()
    return found if found.is_valid else None


def link_to(traceparent: str | None) -> "list[Link]":
    """A link to the span of that name, if it names one."""
    named = None if traceparent is None else span_context_in(context_of(traceparent))
    if named is None:
        return []
    from opentelemetry.trace import Link

    return [Link(named)]


def traceparent_of(span: "Span") -> str:
    """The W3C name of a span, for other processes."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def tracestate_of(span: "Span") -> str | None:
    """What vendors have added to it."""
    return span.get_span_context().trace_state.to_header() or None
