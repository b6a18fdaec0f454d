"""One trace per request across API node, queue and workers, as a real collector gets it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fleet import Fleet, fleet_on, wait_until
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from trace_collector import TraceCollector, attributes, black_hole, grpc_trace_collector, trace_collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
TOKENS = 60
TRIES = 8
STREAM = {
    "model": "simulated",
    "messages": [{"role": "user", "content": "What is the secret word?"}],
    "max_tokens": TOKENS,
    "ignore_eos": True,
    "stream": True,
    "temperature": 0.5,
}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceCollector]:
    with trace_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield collector


@contextmanager
def serving(url: str, workers: int = 1, **settings: object) -> Iterator[tuple[Fleet, str]]:
    with fleet_on(url) as fleet:
        for _ in range(workers):
            fleet.worker(simulated_step_ms=5, max_num_batched_tokens=64, max_num_seqs=8)
        api = fleet.api(**settings)
        api.wait_until_ready(workers=workers)
        yield fleet, api.url


def ask(url: str, body: dict[str, object] = STREAM) -> tuple[httpx.Response, float]:
    """The answer, and the seconds that it took."""
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/health")
        begun = time.monotonic()
        response = client.post("/v1/chat/completions", json=body, headers=HEADERS)
        return response, time.monotonic() - begun


def whole(collector: TraceCollector) -> bool:
    last = ("POST /v1/chat/completions", "llm_request", "detokenize and stream", "process simulated", "decode")
    return all(collector.named(name) for name in last)


def by_name(spans: list[Span]) -> dict[str, Span]:
    return {span.name: span for span in spans}


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def parts_s(spans: dict[str, Span]) -> float:
    """How long the parts of one request took, one after the other."""
    # Decoding and streaming go on side by side: of the latter only its end, after the last token, adds to the wait.
    streamed_s = (spans["detokenize and stream"].end_time_unix_nano - spans["decode"].end_time_unix_nano) / 1e9
    parts = ("render and tokenize", "enqueue", "queue wait", "claim", "wait in worker", "prefill", "decode")
    return streamed_s + sum(seconds(spans[name]) for name in parts if name in spans)


def check_connected(spans: list[Span]) -> None:
    """Every span is of the client's trace, and hangs below another one, or the client's."""
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    known = {span.span_id for span in spans} | {bytes.fromhex(PARENT)}
    assert [span.name for span in spans if span.parent_span_id not in known] == []


def test_a_request_is_one_trace_whose_parts_add_up_to_what_the_client_waited(
    valkey_url: str, collector: TraceCollector
) -> None:
    with serving(valkey_url) as (_, url):
        ask(url)
        wait_until(lambda: whole(collector), "the first request's spans are there")
        # What the machine gives to others belongs to no span, so the quietest of several requests is looked at.
        for _ in range(TRIES):
            collector.spans.clear()
            response, waited_s = ask(url)
            wait_until(lambda: whole(collector), "the spans are there")
            spans = by_name(collector.spans)
            if parts_s(spans) == pytest.approx(waited_s, rel=0.05):
                break
    check_connected(collector.spans)
    assert {
        "POST /v1/chat/completions",
        "llm_request",
        "render and tokenize",
        "enqueue",
        "queue wait",
        "process simulated",
        "claim",
        "prefill",
        "decode",
        "detokenize and stream",
    } <= set(spans)
    assert collector.services == {"headrace-api", "headrace-worker"}
    assert parts_s(spans) == pytest.approx(waited_s, rel=0.05), {name: seconds(span) for name, span in spans.items()}
    assert seconds(spans["POST /v1/chat/completions"]) == pytest.approx(waited_s, rel=0.05)
    assert response.headers["x-headrace-request-id"]
    assert attributes(spans["decode"])["headrace.steps"] == TOKENS - 1


def test_a_request_whose_trace_is_not_sampled_has_no_span_anywhere(valkey_url: str, collector: TraceCollector) -> None:
    with serving(valkey_url) as (_, url):
        unsampled = {"traceparent": f"00-{TRACE[::-1]}-{PARENT}-00"}
        assert httpx.post(f"{url}/v1/chat/completions", json=STREAM, headers=unsampled, timeout=60).is_success
        ask(url)
        wait_until(lambda: whole(collector), "the second request's spans are there")
    check_connected(collector.spans)


def test_the_request_span_speaks_the_conventions_and_vllms_names_and_tells_no_text(
    valkey_url: str, collector: TraceCollector
) -> None:
    with serving(valkey_url) as (_, url):
        response, _ = ask(url, STREAM | {"stream": False})
        wait_until(lambda: whole(collector), "the spans are there")
    spans = by_name(collector.spans)
    http = attributes(spans["POST /v1/chat/completions"])
    assert (http["http.route"], http["http.response.status_code"]) == ("/v1/chat/completions", 200)
    assert spans["POST /v1/chat/completions"].kind == Span.SPAN_KIND_SERVER
    assert spans["POST /v1/chat/completions"].trace_state == "vendor=1"
    found = attributes(spans["llm_request"])
    usage = response.json()["usage"]
    assert found["gen_ai.request.id"] == response.headers["x-headrace-request-id"]
    assert (found["gen_ai.operation.name"], found["gen_ai.request.model"]) == ("chat", "simulated")
    assert (found["gen_ai.request.n"], found["gen_ai.request.max_tokens"]) == (1, 60)
    assert found["gen_ai.request.temperature"] == 0.5
    for name in ("gen_ai.usage.prompt_tokens", "gen_ai.usage.input_tokens"):
        assert found[name] == usage["prompt_tokens"]
    for name in ("gen_ai.usage.completion_tokens", "gen_ai.usage.output_tokens"):
        assert found[name] == usage["completion_tokens"] == 60
    assert found["gen_ai.response.finish_reasons"] == ["length"]
    latency = {name.rpartition(".")[2]: value for name, value in found.items() if "latency" in name}
    assert set(latency) == {
        "time_in_queue",
        "time_to_first_token",
        "time_in_model_prefill",
        "time_in_model_decode",
        "time_in_model_inference",
        "e2e",
    }
    assert latency["time_to_first_token"] < latency["e2e"]
    assert latency["time_in_model_decode"] > 59 * 0.005
    assert not any("secret word" in str(span) for span in collector.spans)


def test_texts_are_in_the_trace_when_they_are_asked_for(
    valkey_url: str, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    with serving(valkey_url) as (_, url):
        response, _ = ask(url, STREAM | {"stream": False})
        wait_until(lambda: whole(collector), "the spans are there")
    found = attributes(by_name(collector.spans)["llm_request"])
    assert "What is the secret word?" in str(found["gen_ai.input.messages"])
    assert response.json()["choices"][0]["message"]["content"] in str(found["gen_ai.output.messages"])


def test_a_request_whose_worker_was_killed_is_one_trace_across_three_processes(
    valkey_url: str, collector: TraceCollector
) -> None:
    with fleet_on(valkey_url) as fleet:
        first = fleet.worker(simulated_step_ms=10)
        api = fleet.api()
        api.wait_until_ready()
        with (
            httpx.Client(base_url=api.url, timeout=60) as client,
            client.stream("POST", "/v1/chat/completions", json=STREAM | {"max_tokens": 200}, headers=HEADERS) as answer,
        ):
            lines = answer.iter_lines()
            while not next(lines).startswith("data: "):
                pass
            wait_until(lambda: bool(collector.named("queue wait")), "the first worker's span has left it")
            fleet.worker(simulated_step_ms=10)
            first.kill()
            assert "data: [DONE]" in list(lines)
        wait_until(lambda: whole(collector), "the spans are there")
    check_connected(collector.spans)
    assert len({collector.processes[span.span_id] for span in collector.spans}) == 3
    (attempt,) = collector.named("process simulated")
    assert attributes(attempt)["headrace.attempt"] == 2
    assert len(attempt.links) == 1
    (request,) = collector.named("llm_request")
    assert [event.name for event in request.events] == ["continuation"]


def test_grpc_is_spoken_where_the_address_asks_for_it(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with grpc_trace_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with serving(valkey_url) as (_, url):
            ask(url)
            wait_until(lambda: whole(collector), "the spans are there")
    check_connected(collector.spans)


def test_a_collector_that_never_answers_slows_no_request(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(valkey_url) as (_, url):
        ask(url)
        alone_s = min(ask(url)[1] for _ in range(3))
    with black_hole() as address:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
        with serving(valkey_url) as (_, url):
            ask(url)
            watched_s = min(ask(url)[1] for _ in range(3))
            begun = time.monotonic()
        stopped_s = time.monotonic() - begun
    assert watched_s < alone_s + 0.1
    assert stopped_s < 8, "the last spans are given up after a moment"


def test_metrics_are_pushed_under_the_names_that_scrapes_show(
    valkey_url: str, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    with serving(valkey_url) as (_, url):
        ask(url)
        names = {"vllm:time_to_first_token_seconds", "vllm:generation_tokens_total", "vllm:num_requests_running"}
        wait_until(lambda: names <= set(collector.metrics), "both processes' metrics are there")

        def counted() -> bool:
            point = collector.metrics["vllm:generation_tokens_total"].sum.data_points[0]
            return point.as_double == 60

        wait_until(counted, "the tokens are counted")
        histogram = collector.metrics["vllm:time_to_first_token_seconds"].histogram.data_points[0]
    assert (histogram.count, sum(histogram.bucket_counts)) == (1, 1)
    assert collector.metrics["vllm:time_to_first_token_seconds"].unit == "s"
