"""Spans for an OpenTelemetry collector, when the environment names one; otherwise nothing of it is even imported.

What the ``OTEL_*`` variables say is left to the SDK, but for those that switch it on or off. Only OTLP over HTTP is
spoken. Spans leave the process in a thread of their own and are dropped when they cannot: serving never waits for them.
"""

import logging
import threading
from typing import TYPE_CHECKING

from headrace_shared.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, Tracer

log = logging.getLogger(__name__)

_LAST_SPANS_S = 2.0
"""How long the last spans may take to leave when the process ends."""


class Tracing:
    """A process's way to the collector, from ``setup_tracing``."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self.tracer: Tracer = provider.get_tracer("headrace")

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
    if settings.protocol != "http/protobuf":
        log.warning("no traces: only OTLP over http/protobuf is supported", extra={"protocol": settings.protocol})
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        log.warning("no traces: the exporter is missing", extra={"install": "headrace[otel]"})
        return None
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def context_of(traceparent: str | None, tracestate: str | None = None) -> "Context":
    """The context for children of a span of another process; an empty one when the text names none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name: text for name, text in (("traceparent", traceparent), ("tracestate", tracestate)) if text}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def link_to(traceparent: str | None) -> "list[Link]":
    """A link to the span of that name, if it names one."""
    from opentelemetry.trace import Link, get_current_span

    span_context = get_current_span(context_of(traceparent)).get_span_context()
    return [Link(span_context)] if span_context.is_valid else []


def traceparent_of(span: "Span") -> str:
    """The W3C name of a span, for other processes."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
