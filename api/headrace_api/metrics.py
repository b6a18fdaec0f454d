"""What an API process counts, declared once; ``GET /metrics`` prints it."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Gaps:
    """Counts of how long something took, by bucket; one for each model."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_SHORT_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_SHORT_S, seconds)] += 1
        self.sum_s += seconds


class GapHistogram(Collector):
    """A Histogram of one label for what happens with every token: a tenth of the cost, as it needs no locks."""

    def __init__(self, name: str, documentation: str, label: str, registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._label = name, documentation, label
        self._gaps: dict[str, Gaps] = {}
        registry.register(self)

    def labels(self, value: str) -> Gaps:
        return self._gaps.setdefault(value, Gaps())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        bounds = [*map(floatToGoString, _SHORT_S), "+Inf"]
        for value, gaps in self._gaps.items():
            family.add_metric([value], list(zip(bounds, accumulate(gaps.counts), strict=True)), gaps.sum_s)
        yield family


class Metrics:
    """The instruments of one process, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.http_requests = Counter(
            "headrace_api_http_requests", "HTTP requests answered.", ("method", "route", "status"), registry=registry
        )
        self.http_duration = Histogram(
            "headrace_api_http_request_duration_seconds",
            "From the request's head to the answer's last byte.",
            ("route",),
            buckets=_LONG_S,
            registry=registry,
        )
        self.generations = Counter(
            "headrace_api_generations",
            "Generation requests that left this process, by how they ended.",
            ("model", "outcome"),
            registry=registry,
        )
        self.in_flight = Gauge(
            "headrace_api_generations_in_flight",
            "Generation requests waiting or running.",
            ("model",),
            registry=registry,
        )
        self.sse_clients = Gauge("headrace_api_sse_clients", "Clients that a stream is open to.", registry=registry)
        self.time_to_first_token = Histogram(
            "headrace_api_time_to_first_token_seconds",
            "From the request's arrival to its first token.",
            ("model",),
            buckets=_LONG_S,
            registry=registry,
        )
        self.inter_token = GapHistogram(
            "headrace_api_inter_token_latency_seconds", "Between two deltas of one choice.", "model", registry
        )
        self.end_to_end = Histogram(
            "headrace_api_generation_duration_seconds",
            "From the request's arrival to its last token.",
            ("model",),
            buckets=_LONG_S,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "headrace_api_prompt_tokens", "Prompt tokens of finished requests.", ("model",), registry=registry
        )
        self.generated_tokens = Counter(
            "headrace_api_generated_tokens", "Tokens generated for finished requests.", ("model",), registry=registry
        )
        self.continuations = Counter(
            "headrace_continuations",
            "Times that another worker went on with a running request.",
            ("model",),
            registry=registry,
        )
        self.models = Gauge("headrace_api_models", "Models that can be asked for.", registry=registry)
        self.card_conflicts = Gauge(
            "headrace_api_model_card_conflicts",
            "Model names that workers announce with different cards.",
            registry=registry,
        )
        self.redis_up = Gauge("headrace_api_redis_up", "1 while Redis answers this process.", registry=registry)
        self.queued_requests = Gauge("headrace_queue_requests", "Requests waiting.", ("model",), registry=registry)
        self.queued_tokens = Gauge(
            "headrace_queue_tokens", "Context tokens that the waiting requests need.", ("model",), registry=registry
        )
        self.queue_running = Gauge(
            "headrace_queue_running", "Requests that workers hold.", ("model",), registry=registry
        )
        self.queue_oldest = Gauge(
            "headrace_queue_oldest_seconds", "Age of the request that waits longest.", ("model",), registry=registry
        )
        self.service_rate = Gauge(
            "headrace_queue_tokens_per_second",
            "Rate of late, of all workers together; 0: nothing is known.",
            ("model",),
            registry=registry,
        )
        self.slots = Gauge(
            "headrace_model_slots", "Sequences that all workers together can run.", ("model",), registry=registry
        )
        self.backlog_gauges = (
            self.queued_requests,
            self.queued_tokens,
            self.queue_running,
            self.queue_oldest,
            self.service_rate,
            self.slots,
        )

    def generations_in_hand(self) -> int:
        """Generation requests waiting or running, of all models."""
        return sum(int(sample.value) for family in self.in_flight.collect() for sample in family.samples)
