"""Series: what a process counts and measures, each declared once, as an attribute of a class of ``Instruments``.

    class Metrics(Instruments):
        steps = Counted("headrace:steps", "Steps computed.", ("model_name",))

    metrics = Metrics(CollectorRegistry())
    metrics.steps.labels("tiny").inc()
    metrics.settle()

The declaration says name, unit (the name's end), help, labels and buckets, and the documentation and the dashboards are
made from it. A label takes its values from a set that the process bounds: models of the fleet, routes, states; never
what a client can make up.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Generic, Literal, Self, TypeVar, cast, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from headrace_shared.telemetry.tallies import CountTally, SpreadTally, SumTally, Tally

M = TypeVar("M")

MODEL = ("model_name",)
ENGINE = ("model_name", "engine")
"""vLLM's labels; ``engine`` is always ``0``: one process is one engine."""
THE_ENGINE = "0"
Across = Literal["livesum", "livemax", "livemostrecent"]


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


class Series(Generic[M]):
    """One metric of every process that has it. On the class it is the declaration, on an instance the instrument."""

    kind: Kind

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, also: str | None = None) -> None:
        """``also``: a second name under which the same values are shown."""
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self.also = also
        self._attribute = ""

    def __set_name__(self, owner: type, attribute: str) -> None:
        self._attribute = attribute

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: "Instruments", owner: type) -> M: ...
    def __get__(self, instance: "Instruments | None", owner: type) -> Self | M:
        return self if instance is None else cast(M, instance.made[self._attribute])

    def make(self, registry: CollectorRegistry) -> M:
        """A process's own instrument."""
        raise NotImplementedError

    @property
    def shown_names(self) -> list[str]:
        """The families' names, as ``# TYPE`` has them."""
        # In the text format a counter's family ends with _total as its samples do.
        names = [self.name, self.also] if self.also else [self.name]
        return [f"{name.removesuffix('_total')}_total" if self.kind is Kind.COUNTER else name for name in names]

    @property
    def sample_names(self) -> list[str]:
        """The names that queries use."""
        ends = {Kind.HISTOGRAM: ("_bucket", "_count", "_sum"), Kind.SUMMARY: ("_count", "_sum")}.get(self.kind, ("",))
        return [f"{name}{end}" for name in self.shown_names for end in ends]


class Counted(Series[CountTally]):
    """Only ever grows."""

    kind = Kind.COUNTER

    def make(self, registry: CollectorRegistry) -> CountTally:
        return CountTally(Counter(self.name, self.text, self.labels, registry=registry))


class Level(Series[Gauge]):
    """Goes up and down. ``across``: what several processes on one port amount to."""

    kind = Kind.GAUGE

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        also: str | None = None,
        across: Across = "livesum",
    ) -> None:
        super().__init__(name, text, labels, also=also)
        self.across: Across = across

    def make(self, registry: CollectorRegistry) -> Gauge:
        return Gauge(self.name, self.text, self.labels, registry=registry, multiprocess_mode=self.across)


class Spread(Series[SpreadTally]):
    """How values are distributed over ``buckets``."""

    kind = Kind.HISTOGRAM

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        also: str | None = None,
    ) -> None:
        super().__init__(name, text, labels, also=also)
        self.buckets = tuple(buckets)

    def make(self, registry: CollectorRegistry) -> SpreadTally:
        return SpreadTally(Histogram(self.name, self.text, self.labels, buckets=self.buckets, registry=registry))


class Totalled(Series[SumTally]):
    """Number and sum of values."""

    kind = Kind.SUMMARY

    def make(self, registry: CollectorRegistry) -> SumTally:
        return SumTally(Summary(self.name, self.text, self.labels, registry=registry))


class Observed(Series[None]):
    """Read from elsewhere when it is asked for: what is told of something that all processes share."""

    kind = Kind.GAUGE

    def make(self, registry: CollectorRegistry) -> None:
        return None

    def family(self, values: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
        """The family with a sample for each of (label values, value)."""
        family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family


class ObservedCount(Series[None]):
    """The same of something that only grows."""

    kind = Kind.COUNTER

    def make(self, registry: CollectorRegistry) -> None:
        return None

    def family(self, values: Iterable[tuple[Sequence[str], float]]) -> CounterMetricFamily:
        """The family with a sample for each of (label values, value)."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family


class Instruments:
    """Makes every series that its class declares."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.made: dict[str, Any] = {}
        for series in self.declared():
            self.made[series._attribute] = series.make(registry)
        self._tallies = [made for made in self.made.values() if isinstance(made, Tally)]
        self._settling = threading.Lock()

    def settle(self) -> None:
        """Bring the registry up to date with what was counted; from any thread."""
        with self._settling:
            for tally in self._tallies:
                tally.settle()

    @classmethod
    def declared(cls) -> Iterator[Series[Any]]:
        """In the order in which they are written down."""
        for owner in reversed(cls.__mro__):
            for value in vars(owner).values():
                if isinstance(value, Series):
                    yield value
