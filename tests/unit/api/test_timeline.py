"""What a process remembers of the requests that came to it."""

from typing import Any

import pytest

from headrace_api.metrics import Metrics
from headrace_api.spans import RequestSpans
from headrace_api.timeline import Past, Timeline, Timelines
from headrace_shared.clock import mono_s
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.event import Delta, Finished, Started

KEPT = 200


@pytest.fixture
def timelines() -> Timelines:
    return Timelines(Metrics(), lambda *parent: RequestSpans(None, *parent))


def begun(timelines: Timelines, request_id: str, ago_s: float = 0.0, **fields: Any) -> Timeline:
    ask = Ask(endpoint="chat", request_id=request_id, body=b"a secret", created=0, owner="ann", **fields)
    return timelines.begin(ask, "tiny", mono_s() - ago_s, (None, None))


def test_the_latest_come_first_and_only_so_many_are_kept(timelines: Timelines) -> None:
    for number in range(KEPT + 3):
        begun(timelines, f"r{number}")
    recent = [past.request_id for past in timelines.recent()]
    assert recent == [f"r{number}" for number in range(KEPT + 2, 2, -1)]


def test_nothing_that_was_asked_is_kept(timelines: Timelines) -> None:
    timeline = begun(timelines, "r")
    assert timeline.ask.body == b""
    assert "secret" not in str(timelines.recent())


def test_marks_count_from_the_arrival_in_the_order_in_which_things_happen(timelines: Timelines) -> None:
    timeline = begun(timelines, "r", ago_s=1.0, tenant="lab", priority=3)
    [waiting] = timelines.recent()
    assert (waiting.tenant, waiting.priority, waiting.owner, waiting.outcome) == ("lab", 3, "ann", "running")
    marks = (waiting.prepared_ms, waiting.enqueued_ms, waiting.queue_ms, waiting.first_token_ms, waiting.ended_ms)
    assert marks == (None,) * 5
    timeline.prepared([], b"")
    timeline.enqueued("tiny.0", 2)
    for _ in range(2):
        timeline.opened()
        timeline.started(Started("w", attempt=2, queue_ms=30.0))
        timeline.said(Delta(0, [1], "x"))
        timeline.finished(Finished(10, 5))
    timeline.closed("finished")
    assert timelines.recent()[0].outcome == "running", "one of its two jobs still runs"
    timeline.closed("finished")
    [past] = timelines.recent()
    moments = [past.prepared_ms, past.enqueued_ms, past.first_token_ms, past.ended_ms]
    assert moments == sorted(moments, key=lambda moment: moment or 0.0)
    assert past.prepared_ms is not None
    assert 1000 <= past.prepared_ms < 3000
    assert (past.queue_ms, past.attempts, past.prompt_tokens, past.completion_tokens) == (30.0, 2, 20, 10)
    assert past.outcome == "finished"


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [(("finished", "cancelled"), "cancelled"), (("internal", "finished"), "internal")],
)
def test_a_request_of_several_jobs_ended_as_the_worst_of_them(
    timelines: Timelines, outcomes: tuple[str, str], told: str
) -> None:
    timeline = begun(timelines, "r")
    for _ in outcomes:
        timeline.opened()
    for outcome in outcomes:
        timeline.closed(outcome)
    [past] = timelines.recent()
    assert isinstance(past, Past)
    assert past.outcome == told
