"""Spans for an OpenTelemetry collector, when the environment names one; otherwise nothing of it is even imported.

What the ``OTEL_*`` variables say is left to the SDK, but for those that switch it on or off and choose the protocol.
Spans leave the process in a thread of their own and are dropped when they cannot: serving never waits for them.
"""

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from headrace_shared.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, Span, Tracer

log = logging.getLogger(__name__)

_LAST_SPANS_S = 2.0
"""How long the last spans may take to leave when the process ends."""
INSTALL = "headrace[otel]"


class Tracing:
    """A process's way to the collector, from ``setup_tracing``."""

    def __init__(self, provider: "TracerProvider", *, content: bool = False) -> None:
        """``content``: prompts and answers may be part of spans."""
        self._provider = provider
        self.tracer: Tracer = provider.get_tracer("headrace")
        self.content = content

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
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, content=settings.instrumentation_genai_capture_message_content)


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
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    if settings.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(**grpc_options(settings.endpoint or ""))
    return None


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


def link_to(traceparent: str | None) -> "list[Link]":
    """A link to the span of that name, if it names one."""
    if traceparent is None:
        return []
    from opentelemetry.trace import Link, get_current_span

    span_context = get_current_span(context_of(traceparent)).get_span_context()
    return [Link(span_context)] if span_context.is_valid else []


def traceparent_of(span: "Span") -> str:
    """The W3C name of a span, for other processes."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def tracestate_of(span: "Span") -> str | None:
    """What vendors have added to it."""
    return span.get_span_context().trace_state.to_header() or None
