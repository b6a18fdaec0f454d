"""The load generator's arithmetic."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_cli.bench.measures import Measurement, Spread, percentile, summarise
from headrace_cli.bench.report import histogram, report


def event(**chunk: object) -> bytes:
    return json.dumps(chunk).encode()


def text(piece: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "text": piece, "finish_reason": finish}])


def finished(started_s: float = 0.0, times_s: tuple[float, ...] = (1.0, 1.5, 3.0), tokens: int = 5) -> Measurement:
    one = Measurement(started_s)
    for time_s in times_s:
        one.on_event(text("x"), time_s)
    one.on_event(event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": tokens}), times_s[-1])
    one.on_event(b"[DONE]", times_s[-1])
    one.end(times_s[-1] + 0.5)
    return one


def test_a_request_is_timed_from_its_start_to_each_chunk_with_output() -> None:
    one = finished()
    assert (one.ttft_s, list(one.gaps_s()), one.tpot_s, one.e2e_s) == (1.0, [0.5, 1.5], 0.5, 3.5)
    assert (one.prompt_tokens, one.output_tokens, one.error) == (7, 5, None)


def test_role_usage_and_closing_chunks_are_no_output() -> None:
    one = Measurement(0.0)
    one.on_event(event(choices=[{"delta": {"role": "assistant", "content": ""}}]), 1.0)
    one.on_event(event(choices=[{"delta": {"content": "a"}}]), 2.0)
    one.on_event(event(choices=[{"delta": {"reasoning_content": "b"}}]), 3.0)
    one.on_event(event(choices=[{"delta": {}, "finish_reason": "stop"}]), 4.0)
    one.on_event(text("", "length"), 5.0)
    assert one.arrivals_s == [2.0, 3.0]


def test_a_server_without_usage_is_credited_a_token_per_chunk() -> None:
    assert finished(tokens=0).output_tokens == 3


def test_an_error_event_fails_the_request_with_its_message() -> None:
    one = Measurement(0.0)
    one.on_event(event(error={"message": "worker lost", "code": "internal_error"}), 1.0)
    one.end(2.0)
    assert one.error == "worker lost"


def test_a_stream_that_just_ends_is_a_failure() -> None:
    one = Measurement(0.0)
    one.on_event(text("x"), 1.0)
    one.end(2.0)
    assert one.error == "the stream ended without [DONE]"


def test_failures_count_only_as_failures() -> None:
    broken = Measurement(0.0, error="HTTP 503: full")
    broken.end(4.0)
    summary = summarise([finished(), finished(0.5), broken])
    assert (summary.completed, summary.failed, summary.errors) == (2, 1, {"HTTP 503: full": 1})
    assert summary.duration_s == 4.0
    assert summary.output_tokens_per_s == pytest.approx(10 / 4.0)
    assert summary.ttft_ms is not None
    assert summary.ttft_ms.mean == pytest.approx(750)


def test_a_run_in_which_all_failed_still_gives_a_report() -> None:
    broken = Measurement(0.0, error="HTTP 503: full")
    broken.end(0.0)
    shown = report(summarise([broken]), [broken])
    assert "0 completed, 1 failed" in shown
    assert "1 x HTTP 503: full" in shown


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.5), (0.9, 3.7), (1.0, 4.0)])
def test_percentiles_lie_between_their_neighbours(share: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == pytest.approx(value)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_a_spread_is_ordered_and_within_its_values(values: list[float]) -> None:
    spread = Spread.of_seconds(values)
    assert spread is not None
    assert spread.p50 <= spread.p90 <= spread.p99 <= spread.max == 1000 * max(values)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    lines = histogram(values).splitlines()
    assert sum(int(line.split()[-1]) for line in lines) == len(values)
    assert max(len(line.partition("│")[2].rpartition(" ")[0]) for line in lines) <= 40
