"""What an API node tells of itself and of its requests: metrics, timings, phases."""

import json
import re
from typing import Any

import pytest
import redis
from eventually import eventually
from live_api import Api, running_api, sse_events
from prometheus_client.parser import text_string_to_metric_families
from scripted_worker import Frames, ScriptedWorker, running_worker

from headrace_api.fleet_view import NAMED_TENANTS
from headrace_api.metrics import Metrics
from headrace_shared.protocol.event import Delta, Finished, FinishReason, Started
from headrace_shared.queue.claims import Claim
from headrace_shared.settings import QueueSettings
from headrace_shared.telemetry.series import Observed, ObservedCount

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = HI | {"stream": True}
WITH_USAGE = STREAM | {"stream_options": {"include_usage": True}}


async def timed(_worker: ScriptedWorker, _claim: Claim) -> Frames:
    """Three tokens, and times that no clock has measured."""
    yield [Started("scripted", queue_ms=5.0)]
    for position in range(3):
        reason = FinishReason.STOP if position == 2 else None
        yield [Delta(0, [65], "A", None, reason)]
    yield [Finished(10, 3, queue_ms=5.0, prefill_ms=20.0, decode_ms=40.0)]


async def scraped(api: Api) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample by its name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families((await api.http.get("/metrics")).text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


async def test_every_declared_series_is_shown_once_there_is_something_to_tell(api: Api) -> None:
    await api.http.post(CHAT, json=STREAM)
    rare = {
        "headrace:redis_call_failures", "headrace:frames_appended", "headrace:stream_log_reads",
        "vllm:admission_rejections", "vllm:tool_call_parser_invocations", "headrace:api_continuations", "headrace:queue_priority_requests",
        "headrace:queue_priority_tokens", "headrace:queue_tenant_requests", "headrace:queue_tenant_tokens",
    }  # fmt: skip
    wanted = {name for series in Metrics.declared() if series.name not in rare for name in series.sample_names}

    async def all_shown() -> bool:
        return wanted <= set(await scraped(api))

    await eventually(all_shown)
    found = await scraped(api)
    assert any(name.startswith("process_") for name in found)


async def test_dashboards_made_for_vllm_find_their_series(api: Api) -> None:
    await api.http.post(CHAT, json=HI | {"max_tokens": 6})
    found = await scraped(api)
    labels = (("engine", "0"), ("model_name", "tiny"))
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_params_n"):
        assert found[f"vllm:{name}_count"][labels] == 1, name
    assert found["vllm:request_params_max_tokens_sum"][labels] == 6
    assert found["vllm:time_per_output_token_seconds_count"] == found["vllm:inter_token_latency_seconds_count"]
    edges = [dict(key)["le"] for key in found["vllm:e2e_request_latency_seconds_bucket"]]
    assert edges[:4] == ["0.3", "0.5", "0.8", "1.0"]


async def test_nothing_that_clients_send_multiplies_series(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url, first_event_wait_s=0) as api:
        await worker.stop_claiming()
        before = sum(map(len, (await scraped(api)).values()))
        opened = []
        for number in range(3 * NAMED_TENANTS):
            await api.http.get(f"/made/up/{number}")
            await api.http.request("PROPFIND", f"/made/up/{number}")
            await api.http.get(f"/v1/requests/unknown-{number}")
            await api.http.post(CHAT, json=HI | {"model": f"unknown-{number}"})
            body = STREAM | {"priority": number * 7 - 100}
            opened.append(api.http.stream("POST", CHAT, json=body, headers={"X-Headrace-Tenant": f"t{number}"}))
            await opened[-1].__aenter__()

        async def seen() -> bool:
            tenants = (await scraped(api)).get("headrace:queue_tenant_requests", {})
            return sum(tenants.values()) == 3 * NAMED_TENANTS

        await eventually(seen, 10)
        found = await scraped(api)
        tenants, bands = found["headrace:queue_tenant_requests"], found["headrace:queue_priority_requests"]
        assert len(tenants) == NAMED_TENANTS + 1
        assert tenants[("model_name", "tiny"), ("tenant", "other")] == 2 * NAMED_TENANTS
        assert len(bands) == 4
        assert sum(bands.values()) == 3 * NAMED_TENANTS
        assert (
            sum(found["headrace:queue_priority_tokens"].values())
            == found["headrace:queue_tokens"][(("model_name", "tiny"),)]
        )
        handlers = {dict(labels)["handler"] for labels in found["http_requests_total"]}
        assert handlers == {"none", "/v1/requests/{request_id}", CHAT}
        methods = {dict(labels)["method"] for labels in found["http_requests_total"]}
        assert methods == {"GET", "POST", "OTHER"}
        assert sum(map(len, found.values())) - before < 450
        for stream in opened:
            await stream.__aexit__(None, None, None)


async def test_a_full_queue_is_counted_as_a_rejection(valkey_url: str) -> None:
    queue = QueueSettings(max_requests=1)
    async with running_worker(valkey_url) as worker, running_api(valkey_url, queue, first_event_wait_s=0) as api:
        await worker.stop_claiming()
        async with api.http.stream("POST", CHAT, json=STREAM):
            assert (await api.http.post(CHAT, json=HI)).status_code == 429
            found = await scraped(api)
    assert found["vllm:admission_rejections_total"] == {(("model_name", "tiny"), ("reason", "overloaded")): 1}


async def test_without_statistics_vllms_series_are_left_out(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, log_stats=False) as api:
        await api.http.post(CHAT, json=HI)
        text = (await api.http.get("/metrics")).text
    assert "vllm:" not in text
    assert "headrace:api_requests_total" in text


@pytest.mark.parametrize("body", [HI, STREAM], ids=["whole", "streamed"])
async def test_server_timing_says_where_the_time_to_the_first_token_went(valkey_url: str, body: dict[str, Any]) -> None:
    async with running_worker(valkey_url, script=timed), running_api(valkey_url) as api:
        response = await api.http.post(CHAT, json=body)
    told = dict(re.findall(r"([a-z_]+);dur=([0-9.]+)", response.headers["server-timing"]))
    if body is STREAM:
        told.pop("total", None)  # there when the answer was over before its first event could be sent
    assert list(told) == ["prepare", "enqueue", "queue", "prefill", "first_token", *(["total"] if body is HI else [])]
    assert float(told["queue"]) == 5.0
    parts = sum(float(told[name]) for name in ("prepare", "enqueue", "queue", "prefill"))
    assert parts == pytest.approx(float(told["first_token"]), abs=6)


async def test_timings_are_told_with_the_usage_when_they_are_asked_for_and_told_again_the_same(valkey_url: str) -> None:
    expected = {
        "time_to_first_token_ms": 25.0,
        "generation_time_ms": 40.0,
        "queue_time_ms": 5.0,
        "mean_itl_ms": 20.0,
        "tokens_per_second": 50.0,
    }
    async with (
        running_worker(valkey_url, script=timed),
        running_api(valkey_url, enable_per_request_metrics=True) as api,
        running_api(valkey_url, enable_per_request_metrics=True) as other,
    ):
        assert (await api.http.post(CHAT, json=HI | {"include_metrics": True})).json()["metrics"] == expected
        answer = await api.http.post(COMPLETIONS, json={"prompt": "a", "include_metrics": True})
        assert answer.json()["metrics"] == expected
        streamed = await api.http.post(CHAT, json=WITH_USAGE | {"include_metrics": True})
        chunks = [json.loads(data) for _, data in sse_events(streamed.text)[:-1]]
        assert [chunk.get("metrics") for chunk in chunks] == [None] * (len(chunks) - 1) + [expected]
        assert chunks[-1]["choices"] == []
        again = await other.http.get(f"/v1/requests/{streamed.headers['x-headrace-request-id']}/stream")
        assert again.text == streamed.text
        assert "metrics" not in (await api.http.post(CHAT, json=HI)).json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, HI | {"n": 2}),
        (CHAT, STREAM),
        (COMPLETIONS, {"prompt": ["a", "b"]}),
    ],
    ids=["two choices", "a stream without usage", "two prompts"],
)
async def test_timings_that_cannot_be_told_are_refused(
    valkey_url: str, worker: ScriptedWorker, path: str, body: dict[str, Any]
) -> None:
    async with running_api(valkey_url, enable_per_request_metrics=True) as api:
        response = await api.http.post(path, json=body | {"include_metrics": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "include_metrics"


async def test_timings_are_refused_where_the_operator_does_not_let_them_be_told(api: Api) -> None:
    response = await api.http.post(CHAT, json=HI | {"include_metrics": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "include_metrics"


async def test_a_request_tells_its_phases_while_it_runs(valkey_url: str) -> None:
    async with running_worker(valkey_url, script=timed) as worker, running_api(valkey_url, first_event_wait_s=0) as api:
        await worker.stop_claiming()
        async with api.http.stream("POST", CHAT, json=STREAM) as waiting:
            told = await api.http.get(f"/v1/requests/{waiting.headers['x-headrace-request-id']}")
            assert told.json()["phases"] == [{"name": "queued", "start_ms": 0, "end_ms": None}]
    async with running_worker(valkey_url, "other", script=timed), running_api(valkey_url) as api:
        answer = await api.http.post(CHAT, json=HI | {"model": "other"})
        phases = (await api.http.get(f"/v1/requests/{answer.json()['id']}")).json()["phases"]
    assert [phase["name"] for phase in phases] == ["queued", "prefill", "decode"]
    assert phases[0]["end_ms"] == phases[1]["start_ms"]
    assert phases[1]["end_ms"] == phases[2]["start_ms"]


async def test_the_time_of_scripts_is_what_redis_itself_counts(valkey_url: str, worker: ScriptedWorker) -> None:
    def counted(client: redis.Redis) -> tuple[int, float]:
        # Scripts sent whole count as well: another test of the same server may have done so.
        stats = client.info("commandstats")
        both = [stats[name] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats]
        return sum(each["calls"] for each in both), sum(each["usec"] for each in both) / 1e6

    with redis.Redis.from_url(valkey_url) as client:
        before = counted(client)
        async with running_api(valkey_url) as api:
            found = await scraped(api)
        after = counted(client)
    assert before[0] <= found["headrace:redis_script_calls_total"][()] <= after[0]
    assert before[1] <= found["headrace:redis_script_seconds_total"][()] <= after[1]


async def test_a_redis_that_tells_nothing_of_itself_is_no_failure(valkey_url: str, worker: ScriptedWorker) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.acl_setuser("quiet", enabled=True, nopass=True, keys=["*"], channels=["*"], categories=["+@all"], commands=["-info"])  # fmt: skip
    async with running_api(valkey_url.replace("://", "://quiet:x@")) as api:
        found = await scraped(api)
    assert found["headrace:redis_up"][()] == 1
    assert "headrace:redis_script_calls_total" not in found


async def test_cancelling_what_waits_is_counted_by_its_phase(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url, first_event_wait_s=0) as api:
        await worker.stop_claiming()
        async with api.http.stream("POST", CHAT, json=STREAM) as waiting:
            await api.http.post(f"/v1/requests/{waiting.headers['x-headrace-request-id']}/cancel")
            found = await scraped(api)
    assert found["headrace:cancellations_total"] == {(("phase", "queued"),): 1}


def test_what_is_observed_is_not_made() -> None:
    metrics = Metrics()
    assert {type(series) for series in Metrics.declared() if metrics.made[series._attribute] is None} == {
        Observed,
        ObservedCount,
    }
