"""Charts of the console: rates and quantiles of the last ten seconds, from what the process counts."""

import math
from typing import Any

import pytest

from headrace_api.console.fleet_tally import FleetTally
from headrace_api.console.recorder import KEPT, Recorder, quantile
from headrace_api.metrics import Metrics
from headrace_shared.errors import UnavailableError

INF = math.inf


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, {}, None),
        (0.5, {1.0: 0.0, INF: 0.0}, None),
        (0.5, {1.0: 10.0, 2.0: 10.0, INF: 10.0}, 0.5),
        (0.5, {1.0: 0.0, 2.0: 4.0, INF: 4.0}, 1.5),
        (0.95, {1.0: 90.0, 2.0: 100.0, INF: 100.0}, 1.5),
        (0.95, {1.0: 1.0, INF: 100.0}, 1.0),
    ],
    ids=["no buckets", "nothing observed", "first bucket", "empty first bucket", "tail", "beyond all edges"],
)
def test_a_quantile_is_that_of_prometheus(share: float, buckets: dict[float, float], expected: float | None) -> None:
    assert quantile(share, buckets) == expected


def test_a_point_tells_of_the_last_ten_seconds_alone() -> None:
    metrics = Metrics()
    recorder = Recorder(metrics, tally_of())
    metrics.time_to_first_token.labels("m", "0").observe(9.0)
    metrics.generations.labels("m", "finished").inc(1000)
    recorder.record(0, 0.0)
    for second in range(1, 31):
        for model in ("m", "other"):
            metrics.generations.labels(model, "finished").inc()
        recorder.record(second * 1000, 12.34)
    last = recorder.points[-1]
    assert (last.tokens_per_s, last.requests_per_s, last.ttft_p50_ms, last.itl_p95_ms) == (12.3, 2.0, None, None)
    metrics.time_to_first_token.labels("m", "0").observe(0.001)
    recorder.record(31_000, 0.0)
    first_token_ms = recorder.points[-1].ttft_p50_ms
    assert first_token_ms is not None
    assert 0 < first_token_ms <= 1


class Board:
    """Nodes without a Redis."""

    def __init__(self) -> None:
        self.told: dict[str, bytes] = {}
        self.away = False

    async def tell(self, node: str, state: bytes, _keep_ms: int) -> dict[str, bytes]:
        if self.away:
            raise UnavailableError("Redis is away")
        self.told[node] = state
        return {name: data for name, data in self.told.items() if name != node}


def tally_of(board: Board | None = None, node: str = "a") -> FleetTally:
    nodes: Any = board or Board()
    return FleetTally(nodes, node)


async def test_a_point_is_of_all_processes_together() -> None:
    board = Board()
    tallies = [tally_of(board, node) for node in ("a", "b")]
    metrics = [Metrics(), Metrics()]
    recorders = [Recorder(*pair) for pair in zip(metrics, tallies, strict=True)]
    for recorder in recorders:
        recorder.record(0, 0.0)
    for _ in range(30):
        metrics[0].time_to_first_token.labels("m", "0").observe(0.001)
    for _ in range(10):
        metrics[1].time_to_first_token.labels("m", "0").observe(5.0)
    for each, ended in zip(metrics, (20, 40), strict=True):
        each.in_flight.labels("m").inc(3)
        each.generations.labels("m", "finished").inc(ended)
    for recorder, tally in zip(recorders * 2, tallies * 2, strict=True):
        recorder.record(10_000, 0.0)
        await tally.exchange()
    board.told["another version"] = b"?"
    for recorder, tally in zip(recorders, tallies, strict=True):
        await tally.exchange()
        recorder.record(10_000, 0.0)
    points = [recorder.points[-1] for recorder in recorders]
    assert points[0] == points[1]
    assert (points[0].requests_per_s, points[0].in_flight) == (6.0, 6)
    assert points[0].ttft_p50_ms is not None
    assert points[0].ttft_p50_ms <= 1
    assert points[0].ttft_p95_ms is not None
    assert points[0].ttft_p95_ms > 2500, "a quarter of all requests were slow, at the other process"
    board.away = True
    await tallies[0].exchange()
    recorders[0].record(10_000, 0.0)
    assert recorders[0].points[-1].in_flight == 3, "without Redis a process knows its own"


def test_points_are_kept_for_five_minutes() -> None:
    recorder = Recorder(Metrics(), tally_of())
    for second in range(KEPT + 5):
        recorder.record(second * 1000, float(second))
    assert [recorder.points[0].at_ms, recorder.points[-1].at_ms, len(recorder.points)] == [5000, 304_000, 300]
