"""Metrics pushed to an OpenTelemetry collector, when ``OTEL_METRICS_EXPORTER=otlp`` asks for it.

They are the very series that ``/metrics`` shows, under the same names: read from there in a thread of their own, every
``OTEL_METRIC_EXPORT_INTERVAL`` milliseconds. What cannot be sent is dropped; the next reading has it.
"""

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from headrace_shared.clock import wall_ns
from headrace_shared.settings import OtlpMetricsSettings
from headrace_shared.telemetry.tracing import INSTALL, grpc_options, resource_of

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData

log = logging.getLogger(__name__)

_LAST_METRICS_S = 2.0
Collect = Callable[[], Iterable[Metric]]


@asynccontextmanager
async def pushing_metrics(
    service: str, collect: Collect, settings: OtlpMetricsSettings | None = None
) -> AsyncIterator[None]:
    """Push what ``collect`` returns for the length of the block; nothing when it is not asked for, or not installed."""
    settings = settings or OtlpMetricsSettings()
    exporter = _exporter(settings) if settings.enabled else None
    if exporter is None:
        yield
        return
    pusher = _Pusher(service, collect, exporter, settings.metric_export_interval / 1000)
    pusher.start()
    try:
        yield
    finally:
        pusher.stop()


def _exporter(settings: OtlpMetricsSettings) -> "MetricExporter | None":
    try:
        if settings.protocol == "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

            return HttpExporter()
        if settings.protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

            endpoint = settings.exporter_otlp_metrics_endpoint or settings.exporter_otlp_endpoint or ""
            return GrpcExporter(**grpc_options(endpoint)) if endpoint else GrpcExporter()
    except ImportError:
        log.warning("no metrics are pushed: the exporter is missing", extra={"install": INSTALL})
        return None
    log.warning(
        "no metrics are pushed: the protocol must be grpc or http/protobuf", extra={"protocol": settings.protocol}
    )
    return None


class _Pusher:
    def __init__(self, service: str, collect: Collect, exporter: "MetricExporter", every_s: float) -> None:
        self._service = service
        self._collect = collect
        self._exporter = exporter
        self._every_s = every_s
        self._started_ns = wall_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The last values are sent by the thread, which is not waited for: they are worth no delay."""
        self._stop.set()

    def _run(self) -> None:
        over = False
        while not over:
            over = self._stop.wait(self._every_s)
            try:
                data = metrics_data(self._service, self._collect(), self._started_ns, wall_ns())
                self._exporter.export(data, timeout_millis=_LAST_METRICS_S * 1000 if over else 10_000)
            except Exception:
                log.exception("metrics could not be pushed")
        self._exporter.shutdown(timeout_millis=_LAST_METRICS_S * 1000)


def metrics_data(service: str, families: Iterable[Metric], started_ns: int, now_ns: int) -> "MetricsData":
    """Prometheus' families as OpenTelemetry's: counters as sums, histograms as histograms, the rest as gauges."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [_otlp(family, started_ns, now_ns) for family in families if family.samples]
    scope = ScopeMetrics(InstrumentationScope("headrace"), metrics, "")
    return MetricsData([ResourceMetrics(resource_of(service), [scope], "")])


def _otlp(family: Metric, started_ns: int, now_ns: int) -> "OtlpMetric":
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, NumberDataPoint, Sum
    from opentelemetry.sdk.metrics.export import Metric as OtlpMetric

    cumulative = AggregationTemporality.CUMULATIVE
    data: Any
    name = family.name
    if family.type == "histogram":
        data = Histogram(_histogram_points(family, started_ns, now_ns), cumulative)
    else:
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        points = [NumberDataPoint(sample.labels, started_ns, now_ns, sample.value) for sample in samples]
        if family.type == "counter":
            name = f"{family.name}_total"
            data = Sum(points, cumulative, is_monotonic=True)
        else:
            data = Gauge(points)
    return OtlpMetric(name, family.documentation, _unit(family.name), data)


def _histogram_points(family: Metric, started_ns: int, now_ns: int) -> list[Any]:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    found: dict[tuple[tuple[str, str], ...], dict[str, list[Sample]]] = {}
    for sample in family.samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        found.setdefault(labels, {}).setdefault(sample.name.removeprefix(family.name), []).append(sample)
    points = []
    for labels, parts in found.items():
        below = [int(sample.value) for sample in parts["_bucket"]]
        counts = [count - before for count, before in zip(below, [0, *below], strict=False)]
        edges = [float(sample.labels["le"]) for sample in parts["_bucket"][:-1]]
        total = parts["_sum"][0].value
        points.append(
            HistogramDataPoint(dict(labels), started_ns, now_ns, below[-1], total, counts, edges, min=0.0, max=0.0)
        )
    return points


def _unit(name: str) -> str:
    for end, unit in (("_seconds", "s"), ("_bytes", "By"), ("_tokens", "{token}"), ("_requests", "{request}")):
        if name.endswith(end):
            return unit
    return "1"
