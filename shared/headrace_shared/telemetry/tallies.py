"""Tallies: what prometheus-client's instruments would count, written down in plain numbers and moved over when asked.

An instrument's own ``inc`` and ``observe`` take locks and look their labels up through more of them: two microseconds
together, for every token and frame. A tally's cost a tenth of that.
"""

from bisect import bisect_left
from itertools import accumulate
from typing import Generic, Self, TypeVar

from prometheus_client import Counter, Histogram, Summary
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)


class Tally(Generic[M]):
    """One thread counts. Any may settle, one at a time: it only reads, and moves what was added since it last did."""

    def __init__(self, metric: M) -> None:
        self._metric = metric
        self._labelled: dict[tuple[str, ...], Self] = {}

    def labels(self, *values: str) -> Self:
        """The same tally for the same values; whoever counts often keeps it."""
        found = self._labelled.get(values)
        if found is None:
            # At once, so that it is shown with nothing counted as the instrument itself would be.
            found = self._labelled[values] = type(self)(self._metric.labels(*values))
        return found

    def settle(self) -> None:
        """Bring the instrument up to date."""
        self._move()
        for tally in list(self._labelled.values()):
            tally.settle()

    def _move(self) -> None:
        raise NotImplementedError


class CountTally(Tally[Counter]):
    """Of a counter."""

    def __init__(self, metric: Counter) -> None:
        super().__init__(metric)
        self._value = self._moved = 0.0

    def inc(self, amount: float = 1) -> None:
        self._value += amount

    @property
    def total(self) -> float:
        """Over all labels."""
        return self._value + sum(tally.total for tally in self._labelled.values())

    def _move(self) -> None:
        value = self._value
        if value != self._moved:
            self._metric.inc(value - self._moved)
            self._moved = value


class SumTally(Tally[Summary]):
    """Of number and sum."""

    def __init__(self, metric: Summary) -> None:
        super().__init__(metric)
        self._count = self._moved_count = 0
        self._sum = self._moved_sum = 0.0

    def observe(self, value: float) -> None:
        self._count += 1
        self._sum += value

    def _move(self) -> None:
        count, total = self._count, self._sum
        if count != self._moved_count:
            self._metric._count.inc(count - self._moved_count)
            self._metric._sum.inc(total - self._moved_sum)
            self._moved_count, self._moved_sum = count, total


class SpreadTally(Tally[Histogram]):
    """Of a histogram."""

    def __init__(self, metric: Histogram) -> None:
        super().__init__(metric)
        self._edges = metric._upper_bounds
        self._counts = [0] * len(self._edges)
        self._moved = self._counts.copy()
        self._sum = self._moved_sum = 0.0

    @property
    def buckets(self) -> dict[float, int]:
        """Observations up to each edge, over all labels."""
        return dict(zip(self._edges, accumulate(self._totals()), strict=True))

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._edges, value)] += 1
        self._sum += value

    def _totals(self) -> list[int]:
        rows = [self._counts, *(tally._totals() for tally in list(self._labelled.values()))]
        return [sum(column) for column in zip(*rows, strict=True)]

    def _move(self) -> None:
        counts, total = self._counts.copy(), self._sum
        if counts == self._moved:
            return
        for bucket, count, moved in zip(self._metric._buckets, counts, self._moved, strict=True):
            if count != moved:
                bucket.inc(count - moved)
        self._metric._sum.inc(total - self._moved_sum)
        self._moved, self._moved_sum = counts, total
