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
        await eventually(lambda: bool(collector.named(NAME)))
    (span,) = collector.named(NAME)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.span_id.hex() == _span_id(_started(events)[0])
    assert [event.name for event in span.events] == ["first_token"]
    assert not span.links
    found = attributes(span)
    assert str(found.pop("headrace.worker"))
    times = {name: found.pop(name) for name in list(found) if name.startswith("gen_ai.latency.")}
    assert set(times) == {
        "gen_ai.latency.time_in_queue",
        "gen_ai.latency.time_in_model_prefill",
        "gen_ai.latency.time_in_model_decode",
        "gen_ai.latency.time_in_model_inference",
    }
    assert all(isinstance(value, float) and value >= 0 for value in times.values())
    assert found == {
        "gen_ai.request.model": "simulated",
        "headrace.request_id": "r1",
        "headrace.attempt": 1,
        "headrace.outcome": "finished",
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "headrace.preemptions": 0,
        "gen_ai.response.finish_reasons": ["length"],
    }
    assert collector.services == {"headrace-worker"}


async def test_the_parts_of_an_attempt_are_spans_below_it_and_chunks_are_events(
    valkey_url: str, client: QueueClient, collector: TraceCollector
) -> None:
    with workers(valkey_url, 1, max_num_batched_tokens=64, max_num_seqs=8, collect_detailed_traces="all"):
        card = await card_of_fleet(client.presence, 1)
        job = generate_job(card.queue, "r1", prompt_tokens=160, max_tokens=10, ignore_eos=True, traceparent=TRACEPARENT)
        await client.run(job)
        await eventually(lambda: bool(collector.named(NAME)))
    (attempt,) = collector.named(NAME)
    below = {span.name: span for span in collector.spans if span.parent_span_id == attempt.span_id}
    assert {"claim", "prefill", "decode"} <= set(below)
    chunks = below["prefill"].events
    assert [(event.name, event.attributes[1].value.int_value) for event in chunks] == [
        ("chunk", 64),
        ("chunk", 64),
        ("chunk", 32),
    ]
    assert below["prefill"].end_time_unix_nano == below["decode"].start_time_unix_nano
    (waited,) = collector.named("queue wait")
    assert waited.parent_span_id.hex() == PARENT
    assert waited.end_time_unix_nano == attempt.start_time_unix_nano
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    execute = attributes(attempt)["gen_ai.latency.time_in_model_execute"]
    assert isinstance(execute, float)
    assert execute > 12 * 0.002, "twelve steps of two milliseconds"


async def test_a_client_that_does_not_sample_is_heeded(
    valkey_url: str, client: QueueClient, collector: TraceCollector
) -> None:
    with workers(valkey_url, 1):
        card = await card_of_fleet(client.presence, 1)
        for request_id, flags in (("r1", "00"), ("r2", "01")):
            traceparent = f"00-{TRACE}-{PARENT}-{flags}"
            await client.run(generate_job(card.queue, request_id, max_tokens=3, traceparent=traceparent))
        await eventually(lambda: bool(collector.named(NAME)))
    assert [attributes(span)["headrace.request_id"] for span in collector.named(NAME)] == ["r2"]


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
        await eventually(lambda: len(collector.named(NAME)) == (1 if how == "kill" else 2))
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


async def test_an_item_of_a_batch_is_a_trace_of_its_own_with_a_link_to_the_batch(
    valkey_url: str, client: QueueClient, collector: TraceCollector
) -> None:
    with workers(valkey_url, 1):
        card = await card_of_fleet(client.presence, 1)
        for number in range(2):
            await client.run(generate_job(card.queue, f"item-{number}", max_tokens=3, linked=TRACEPARENT))
        await eventually(lambda: len(collector.named(NAME)) == 2)
    items = collector.named(NAME)
    assert len({span.trace_id for span in items} | {bytes.fromhex(TRACE)}) == 3
    for span in items:
        assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == [(TRACE, PARENT)]
        assert span.parent_span_id == b""
        parts = {part.name: part for part in collector.spans if part.trace_id == span.trace_id and part is not span}
        assert {"queue wait", "claim", "prefill", "decode"} <= set(parts)
        assert {part.parent_span_id for part in parts.values()} == {span.span_id}


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
