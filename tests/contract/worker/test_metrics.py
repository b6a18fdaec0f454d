"""A real worker's /metrics and /health, and what it announces of itself."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from eventually import eventually
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from queue_client import QueueClient, generate_job, queue_client
from worker_process import WorkerProcess, card_of_fleet, workers
from worker_states import until_running

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.queue.presence import WorkerState
from headrace_worker.service.metrics import WorkerMetrics

ENGINE = (("engine", "0"), ("model_name", "simulated"))
MODEL = (("model_name", "simulated"),)

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[QueueClient]:
    async with queue_client(valkey_url) as client:
        yield client


async def announced(client: QueueClient) -> WorkerState:
    [model] = (await client.presence.fleet()).models
    [state] = model.workers
    return state


async def scraped(client: QueueClient) -> Samples:
    async with httpx.AsyncClient() as http:
        text = (await http.get((await announced(client)).metrics_url)).text
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


async def test_every_declared_series_is_shown_and_counts_what_was_done(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1):
        card = await card_of_fleet(client.presence, 1)
        for request_id in ("r1", "r2"):
            await client.run(generate_job(card.queue, request_id, max_tokens=10, ignore_eos=True))

        async def settled() -> bool:
            return (await scraped(client))["vllm:iteration_tokens_total_count"].get(ENGINE, 0) >= 20

        await eventually(settled)
        found = await scraped(client)
    rare = {"headrace:redis_call_failures", "headrace:stream_log_reads", "headrace:cancellations"}
    rare.add("vllm:spec_decode_num_accepted_tokens_per_pos")
    for series in WorkerMetrics.declared():
        if series.name not in rare:
            assert [name for name in series.sample_names if name not in found] == []
    assert found["vllm:prompt_tokens_total"][ENGINE] == 80
    assert found["vllm:generation_tokens_total"][ENGINE] == 20
    by_source = found["vllm:prompt_tokens_by_source_total"]
    cached = by_source[*ENGINE, ("source", "local_cache_hit")]
    assert cached == found["vllm:prompt_tokens_cached_total"][ENGINE] == 32, "the second prompt's first two blocks"
    assert by_source[*ENGINE, ("source", "local_compute")] == 48
    assert found["vllm:prefix_cache_hits_total"][ENGINE] == 32
    assert found["vllm:prefix_cache_queries_total"][ENGINE] == 80
    assert found["vllm:request_success_total"] == {(("engine", "0"), ("finished_reason", "length"), *MODEL): 2}
    for name in ("queue", "prefill", "decode", "inference"):
        assert found[f"vllm:request_{name}_time_seconds_count"][ENGINE] == 2, name
    decode_s, inference_s = (found[f"vllm:request_{name}_time_seconds_sum"][ENGINE] for name in ("decode", "inference"))
    assert 2 * 9 * 0.002 <= decode_s <= inference_s
    assert found["vllm:iteration_tokens_total_sum"][ENGINE] == 40 + 9 + 8 + 9
    assert found["vllm:request_generation_tokens_sum"][ENGINE] == 20
    assert found["vllm:kv_cache_usage_perc"] == found["vllm:gpu_cache_usage_perc"] == {ENGINE: 0}
    assert found["headrace:attempts_total"] == {(*MODEL, ("outcome", "finished")): 2}
    (config,) = found["vllm:cache_config_info"]
    assert dict(config)["block_size"] == "16"


async def test_what_waits_in_the_queue_is_shared_out_among_the_workers(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, max_num_seqs=1, max_num_batched_tokens=64, simulated_step_ms=20):
        card = await card_of_fleet(client.presence, 1)
        running = [
            asyncio.create_task(client.run(generate_job(card.queue, f"r{number}", max_tokens=300, ignore_eos=True)))
            for number in range(4)
        ]

        async def shown() -> bool:
            found = await scraped(client)
            reasons = {
                dict(labels)["reason"]: value for labels, value in found["vllm:num_requests_waiting_by_reason"].items()
            }
            waiting, busy = found["vllm:num_requests_waiting"][ENGINE], found["vllm:num_requests_running"][ENGINE]
            return (busy, waiting) == (1, 3) and reasons == {"capacity": 3, "deferred": 0}

        await eventually(shown, 10)
        state = await announced(client)
        assert state.tokens_per_s > 5
        assert state.step_ms >= 20
        for task in running:
            task.cancel()


async def test_a_cancelled_request_counts_for_the_phase_it_was_in(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, simulated_step_ms=5):
        card = await card_of_fleet(client.presence, 1)
        running = asyncio.create_task(client.run(generate_job(card.queue, "r1", max_tokens=900, ignore_eos=True)))
        await until_running(client.presence, 1)
        await asyncio.sleep(0.1)
        await client.queue.cancel(card.queue, "r1", "enough")
        await running

        async def counted() -> bool:
            return (await scraped(client)).get("headrace:cancellations_total") == {(("phase", "decode"),): 1}

        await eventually(counted)
        aborted = (("engine", "0"), ("finished_reason", "abort"), *MODEL)
        assert (await scraped(client))["vllm:request_success_total"] == {aborted: 1}


async def test_a_continuation_is_counted_where_it_goes_on(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, simulated_step_ms=20) as fleet:
        card = await card_of_fleet(client.presence, 1)
        running = asyncio.create_task(client.run(generate_job(card.queue, "r1", max_tokens=300, ignore_eos=True)))
        await until_running(client.presence, 1)
        fleet.append(WorkerProcess(valkey_url, simulated_step_ms=5))
        await card_of_fleet(client.presence, 2)
        fleet[0].kill()
        await running

        async def alone() -> bool:
            return len((await client.presence.fleet()).models[0].workers) == 1

        await eventually(alone)
        found = await scraped(client)
    assert found["headrace:continuations_total"][()] == 1
    assert found["headrace:requests_requeued_total"][()] == 1


async def test_health_says_when_redis_was_away_for_longer_than_the_lease(own_valkey: EmbeddedRedis) -> None:
    port = free_port()
    with workers(own_valkey.url, 1, metrics_port=port):
        async with (
            queue_client(own_valkey.url) as client,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            await card_of_fleet(client.presence, 1)
            assert (await announced(client)).metrics_url == f"http://127.0.0.1:{port}/metrics"
            assert (await http.get("/elsewhere")).status_code == 404

            async def health() -> int:
                return (await http.get("/health")).status_code

            async def well() -> bool:
                return await health() == 200

            async def ill() -> bool:
                return await health() == 503

            await eventually(well)
            await asyncio.to_thread(own_valkey.kill)
            await eventually(ill, 10)
            await asyncio.to_thread(own_valkey.start)
            await eventually(well, 10)


async def test_a_port_that_is_taken_ends_the_worker_with_a_line_that_says_so(
    valkey_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with workers(valkey_url, 1, metrics_port=port) as [worker]:
        status = await asyncio.to_thread(worker.process.wait, 20)
    server.close()
    assert status == 2
    assert f"metrics_port: cannot listen on 127.0.0.1:{port}" in capfd.readouterr().err


async def test_without_a_listener_none_is_announced(valkey_url: str, client: QueueClient) -> None:
    with workers(valkey_url, 1, metrics_port=-1):
        await card_of_fleet(client.presence, 1)
        assert (await announced(client)).metrics_url == ""


def test_detailed_traces_want_a_collector(valkey_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    with workers(valkey_url, 1, collect_detailed_traces="all") as [worker]:
        assert worker.process.wait(20) == 2
    assert "--otlp-traces-endpoint" in capfd.readouterr().err
