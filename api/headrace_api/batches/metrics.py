"""What a batch worker counts and measures, declared once; its ``/metrics`` prints it."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from headrace_api.metrics import Metrics
from headrace_shared.telemetry.queue_metrics import ProcessMetrics
from headrace_shared.telemetry.series import Counted, Instruments, Observed


class BatchMetrics(Instruments):
    """The instruments of one batch worker, in a registry of their own."""

    held = Observed("headrace:batch_worker_batches", "Batches in the hands of this batch worker.")
    places = Observed(
        "headrace:batch_worker_places",
        "Places of its window by state: used (for an item in the queue), free.",
        ("state",),
    )
    taken = Counted("headrace:batch_worker_taken", "Batches taken up, new ones and those of owners that fell silent.")
    results = Counted(
        "headrace:batch_worker_results", "Results of items that count, by their file: output, error.", ("kind",)
    )
    segments = Counted("headrace:batch_worker_segments", "Segments of results that count.")
    put_off = Counted(
        "headrace:batch_worker_put_off",
        "Times that an item was put off, by why: refused (no worker, a full queue, Redis away), ended (so did its request).",
        ("why",),
    )

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry)


class OwnSeries:
    """A process's way to Redis and its event loop, out of all that an API process counts.

    Requests are left out: added to those of API nodes, items that wait for hours would hide what users wait for.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._names = {series.name for series in ProcessMetrics.declared()}

    def collect(self) -> Iterator[Metric]:
        self._metrics.settle()
        return (family for family in self._metrics.registry.collect() if family.name in self._names)
