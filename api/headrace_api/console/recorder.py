"""Recorder: the last minutes of throughput and latency, second by second, for charts."""

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from headrace_api.console.fleet_tally import FleetTally, Tally, added_up
from headrace_api.metrics import Metrics
from headrace_api.schemas.console import Point

KEPT = 300
_WINDOW = 10
"""Readings that a rate or a quantile is made of: one a second."""

Buckets = Mapping[float, float]
"""Observations up to an edge, by the edge."""


@dataclass(frozen=True, slots=True)
class _Reading:
    at_ms: int
    first_token: Buckets
    between_tokens: Buckets
    ended: float


class Recorder:
    """Reads what this process counts, tells the fleet, and records what all processes of it counted."""

    def __init__(self, metrics: Metrics, fleet: FleetTally) -> None:
        self._metrics = metrics
        self._fleet = fleet
        self._readings: deque[_Reading] = deque(maxlen=_WINDOW + 1)
        self.points: deque[Point] = deque(maxlen=KEPT)

    def record(self, at_ms: int, tokens_per_s: float) -> None:
        """Add a point."""
        self._fleet.own = self._measured(at_ms)
        tallies = self._fleet.all()
        first = added_up(tally.first_token for tally in tallies)
        between = added_up(tally.between_tokens for tally in tallies)
        self.points.append(
            Point(
                at_ms=at_ms,
                tokens_per_s=round(tokens_per_s, 1),
                requests_per_s=round(sum(tally.ended_per_s for tally in tallies), 2),
                in_flight=sum(tally.in_flight for tally in tallies),
                ttft_p50_ms=_ms(quantile(0.5, first)),
                ttft_p95_ms=_ms(quantile(0.95, first)),
                itl_p50_ms=_ms(quantile(0.5, between)),
                itl_p95_ms=_ms(quantile(0.95, between)),
            )
        )

    def _measured(self, at_ms: int) -> Tally:
        metrics = self._metrics
        now = _Reading(
            at_ms,
            metrics.time_to_first_token.buckets,
            metrics.inter_token.buckets,
            metrics.generations.total,
        )
        self._readings.append(now)
        then = self._readings[0]
        seconds = max((now.at_ms - then.at_ms) / 1000, 1.0)
        return Tally(
            first_token=_since(then.first_token, now.first_token),
            between_tokens=_since(then.between_tokens, now.between_tokens),
            ended_per_s=(now.ended - then.ended) / seconds,
            in_flight=metrics.generations_in_hand(),
        )


def quantile(share: float, buckets: Buckets) -> float | None:
    """As Prometheus' ``histogram_quantile``: linear inside a bucket, the last finite edge beyond it; None for no observation."""
    edges = sorted(buckets)
    total = buckets[edges[-1]] if edges else 0
    if total <= 0:
        return None
    wanted = share * total
    for below, edge in itertools.pairwise([0.0, *edges]):
        if buckets[edge] >= wanted:
            if edge == float("inf"):
                return below
            before = buckets.get(below, 0.0)
            return below + (edge - below) * (wanted - before) / (buckets[edge] - before)
    return None


def _since(then: Buckets, now: Buckets) -> list[tuple[float, float]]:
    return [(edge, count - then.get(edge, 0.0)) for edge, count in now.items()]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
