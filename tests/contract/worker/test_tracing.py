"""The spans of real workers, as a collector gets them."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from eventually import eventually
from queue_client import QueueClient, generate_job, queue_client
from trace_collector import TraceCollector, attributes, trace_collector
from worker_process import WorkerProcess, card_of_fleet, workers
from worker_states import until_running

from headrace_shared.protocol.event import Event, Finished, Started

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
NAME = "process simulated"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceCollector]:
    with trace_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield collector


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[QueueClient]:
    async with queue_client(valkey_url) as client:
        yield client


def _started(events: list[Event]) -> list[Started]:
    return [event for event in events if isinstance(event, Started)]


def _span_id(started: Started) -> str:
    assert started.traceparent is not None
    version, trace, span, flags = started.traceparent.split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    return span


async def test_an_attempt_is_a_span_below_the_one_that_asked(
    valkey_url: str, client: QueueClient, collector: TraceCollector
) -> None:
    with workers(valkey_url, 1):
        card = await card_of_fleet(client.presence, 1)
        job = generate_job(card.queue, "r1", max_tokens=10, ignore_eos=True, traceparent=TRACEPARENT)
        events = await client.run(job)
        await eventually(lambda: bool(collector.spans))
    (span,) = collector.named(NAME)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.span_id.hex() == _span_id(_started(events)[0])
    assert [event.name for event in span.events] == ["first_token"]
    assert not span.links
    found = attributes(span)
    assert str(found.pop("headrace.worker"))
    assert found == {
        "gen_ai.request.model": "simulated",
        "headrace.request_id": "r1",
        "headrace.attempt": 1,
        "headrace.outcome": "finished",
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.response.finish_reasons": ["length"],
    }
    assert collector.services == {"headrace-worker"}


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_a_continuation_has_a_link_to_the_attempt_before_it(
    valkey_url: str, client: QueueClient, collector: TraceCollector, how: str
) -> None:
    with workers(valkey_url, 1, simulated_step_ms=5) as fleet:
        card = await card_of_fleet(client.presence, 1)
        job = generate_job(card.queue, "r1", max_tokens=600, ignore_eos=True, traceparent=TRACEPARENT)
        running = asyncio.create_task(client.run(job))
        await until_running(client.presence, 1)
        fleet.append(WorkerProcess(valkey_url, simulated_step_ms=5))
        await card_of_fleet(client.presence, 2)
        getattr(fleet[0], how)()
        events = await running
        await eventually(lambda: len(collector.spans) == (1 if how == "kill" else 2))
    assert isinstance(events[-1], Finished)
    first, second = _started(events)
    spans = {span.span_id.hex(): span for span in collector.named(NAME)}
    span = spans[_span_id(second)]
    assert [link.span_id.hex() for link in span.links] == [_span_id(first)]
    assert span.parent_span_id.hex() == PARENT
    assert attributes(span)["headrace.attempt"] == 2
    # A killed worker takes its span with it: the link is all that is left of it.
    left = spans.get(_span_id(first))
    assert (left is None) is (how == "kill")
    if left is not None:
        assert attributes(left)["headrace.outcome"] == "handed over"


async def test_a_collector_that_is_away_neither_slows_a_worker_nor_keeps_it(
    valkey_url: str, client: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with workers(valkey_url, 1) as fleet:
        card = await card_of_fleet(client.presence, 1)
        events = await client.run(generate_job(card.queue, "r1", max_tokens=10))
        begin = time.monotonic()
        assert await asyncio.to_thread(fleet[0].terminate) == 0
        assert time.monotonic() - begin < 5
    assert isinstance(events[-1], Finished)


async def test_without_a_collector_no_span_is_named(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1):
        card = await card_of_fleet(client.presence, 1)
        events = await client.run(generate_job(card.queue, "r1", max_tokens=3, traceparent=TRACEPARENT))
    assert [started.traceparent for started in _started(events)] == [None]
