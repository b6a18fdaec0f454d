"""Charts of the console: rates and quantiles of the last ten seconds, from what the process counts."""

import math

import pytest

from headrace_api.console.recorder import KEPT, Recorder, quantile
from headrace_api.metrics import Metrics

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
    recorder = Recorder(metrics)
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


def test_points_are_kept_for_five_minutes() -> None:
    recorder = Recorder(Metrics())
    for second in range(KEPT + 5):
        recorder.record(second * 1000, float(second))
    assert [recorder.points[0].at_ms, recorder.points[-1].at_ms, len(recorder.points)] == [5000, 304_000, 300]
