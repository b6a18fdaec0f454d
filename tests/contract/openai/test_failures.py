"""What clients see when workers, Redis or clients themselves fail."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import openai
import pytest
from eventually import eventually
from live_api import Api, data_lines, running_api
from scripted_worker import Script, ScriptedWorker, running_worker, say

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Delta, Event, Failed, Started
from headrace_shared.queue.claims import Claim
from headrace_shared.settings import QueueSettings

pytestmark = pytest.mark.slow

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = HI | {"stream": True}
CHAT = "/v1/chat/completions"

Frames = AsyncGenerator[list[Event], None]


async def never(_worker: ScriptedWorker, _claim: Claim) -> Frames:
    """Starts and says nothing more."""
    yield [Started("scripted")]
    await asyncio.sleep(60)


async def slowly(_worker: ScriptedWorker, _claim: Claim) -> Frames:
    """A token each few milliseconds, for ever."""
    yield [Started("scripted")]
    while True:
        yield [Delta(0, [1], "x")]
        await asyncio.sleep(0.005)


def failing(*before: Event, code: ErrorCode = ErrorCode.INVALID_REQUEST, param: str | None = None) -> Script:
    async def script(_worker: ScriptedWorker, _claim: Claim) -> Frames:
        for event in before:
            yield [event]
        yield [Failed(code, "the worker says no", param)]

    return script


async def until_cancelled(worker: ScriptedWorker, count: int = 1) -> None:
    await eventually(lambda: len(worker.cancelled) >= count)


async def until_served(api: Api, body: dict[str, Any]) -> None:
    async def served() -> bool:
        return (await api.http.post(CHAT, json=body)).status_code == 200

    await eventually(served, 10)


@pytest.mark.parametrize("before", [(), (Started("w"),)])
@pytest.mark.parametrize("body", [HI, STREAM])
async def test_a_failure_before_the_first_token_is_a_status(
    valkey_url: str, before: tuple[Event, ...], body: dict[str, Any]
) -> None:
    async with running_worker(valkey_url, script=failing(*before, param="stop")), running_api(valkey_url) as api:
        response = await api.http.post(CHAT, json=body)
        assert response.status_code == 400
        assert response.json()["error"] == {
            "message": "the worker says no",
            "type": "invalid_request_error",
            "param": "stop",
            "code": "invalid_request",
        }


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.CONTEXT_LENGTH_EXCEEDED, 400),
        (ErrorCode.OVERLOADED, 429),
        (ErrorCode.UNAVAILABLE, 503),
        (ErrorCode.DEADLINE_EXCEEDED, 504),
        (ErrorCode.POISONED, 500),
    ],
)
async def test_every_failure_has_its_status(valkey_url: str, code: ErrorCode, status: int) -> None:
    async with running_worker(valkey_url, script=failing(code=code)), running_api(valkey_url) as api:
        response = await api.http.post(CHAT, json=HI)
        assert response.status_code == status
        assert response.json()["error"]["code"] == code.value
        assert ("retry-after" in response.headers) == (status in (429, 503))


async def test_an_internal_failure_keeps_its_words_to_the_log(valkey_url: str) -> None:
    async with running_worker(valkey_url, script=failing(code=ErrorCode.INTERNAL)), running_api(valkey_url) as api:
        response = await api.http.post(CHAT, json=HI, headers={"X-Request-Id": "find-me"})
        assert response.status_code == 500
        assert "says no" not in response.text
        assert "find-me" in response.json()["error"]["message"]


async def test_a_failure_inside_a_stream_is_an_event_that_the_sdk_raises(valkey_url: str) -> None:
    script = failing(Started("w"), Delta(0, [1], "part"))
    async with running_worker(valkey_url, script=script), running_api(valkey_url) as api:
        response = await api.http.post(CHAT, json=STREAM)
        assert response.status_code == 200
        *_, text, error, done = data_lines(response.text)
        assert json.loads(text)["choices"][0]["delta"]["content"] == "part"
        assert json.loads(error)["error"]["message"] == "the worker says no"
        assert done == "[DONE]"
        stream = await api.sdk.chat.completions.create(model="tiny", messages=HI["messages"], stream=True)
        with pytest.raises(openai.APIError, match="says no"):
            _ = [chunk async for chunk in stream]


@pytest.mark.parametrize("script", [never, slowly])
async def test_a_client_that_leaves_a_stream_has_its_work_cancelled(valkey_url: str, script: Script) -> None:
    async with (
        running_worker(valkey_url, script=script) as worker,
        running_api(valkey_url, disconnect_linger_s=0.1) as api,
    ):
        async with api.http.stream("POST", CHAT, json=STREAM) as response:
            assert response.status_code == 200
        if script is slowly:
            await until_cancelled(worker)
        await quiet(api)


async def test_a_client_that_does_not_wait_for_its_answer_has_its_work_cancelled(valkey_url: str) -> None:
    async with running_worker(valkey_url, script=slowly) as worker, running_api(valkey_url) as api:
        with pytest.raises(httpx.ReadTimeout):
            await api.http.post(CHAT, json=HI, timeout=0.3)
        await until_cancelled(worker)
        await quiet(api)


async def quiet(api: Api) -> None:
    """Nothing is left open."""

    async def nothing_open() -> bool:
        text = (await api.http.get("/metrics")).text
        return 'in_flight{model_name="tiny"} 0.0' in text and "sse_clients 0.0" in text

    await eventually(nothing_open)


async def test_one_of_several_prompts_that_fails_ends_them_all(valkey_url: str) -> None:
    async def picky(worker: ScriptedWorker, claim: Claim) -> Frames:
        fails = claim.request_id.endswith("-1")
        if fails:  # once the others run
            await eventually(lambda: len(worker.claims) == 3)
        async with contextlib.aclosing((failing() if fails else slowly)(worker, claim)) as events:
            async for frame in events:
                yield frame

    async with running_worker(valkey_url, script=picky) as worker, running_api(valkey_url) as api:
        response = await api.http.post("/v1/completions", json={"prompt": ["a", "b", "c"]})
        assert response.status_code == 400
        await until_cancelled(worker, 2)


async def test_a_silent_stream_is_kept_alive_with_comments(valkey_url: str) -> None:
    async def hesitant(_worker: ScriptedWorker, claim: Claim) -> Frames:
        said = 0
        async for events in say(claim.job, "Hello!"):
            if said in (0, 3):
                await asyncio.sleep(0.5)
            said += 1
            yield events

    async with (
        running_worker(valkey_url, script=hesitant),
        running_api(valkey_url, keep_alive_s=0.1, first_event_wait_s=0.05) as api,
    ):
        response = await api.http.post(CHAT, json=STREAM)
        assert response.text.startswith(": keep-alive\n: keep-alive\n")
        assert "\n\n: keep-alive\n: keep-alive\n" in response.text
        assert response.text.endswith("data: [DONE]\n\n")
        stream = await api.sdk.chat.completions.create(model="tiny", messages=HI["messages"], stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello!"


async def test_a_request_that_takes_too_long_is_ended(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url, script=never),
        running_api(valkey_url, request_timeout_s=0.4, first_event_wait_s=0.1) as api,
    ):
        response = await api.http.post(CHAT, json=HI)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        streamed = await api.http.post(CHAT, json=STREAM)
        assert json.loads(list(data_lines(streamed.text))[-2])["error"]["code"] == "deadline_exceeded"


async def test_a_request_whose_every_worker_died_is_ended(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url, script=never) as worker,
        running_api(valkey_url, no_worker_grace_s=0.5) as api,
    ):
        asking = asyncio.create_task(api.http.post(CHAT, json=HI))
        await eventually(lambda: bool(worker.claims))
        await worker.die(lease_ms=500)
        response = await asking
        assert response.status_code == 503
        assert "Every worker" in response.json()["error"]["message"]


async def test_a_full_queue_is_429_with_a_time_to_come_back(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker:
        await worker.stop_claiming()
        limits = QueueSettings(max_requests=1)
        async with (
            running_api(valkey_url, queue=limits, first_event_wait_s=0) as api,
            api.http.stream("POST", CHAT, json=STREAM),
        ):
            response = await api.http.post(CHAT, json=HI)
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            assert int(response.headers["retry-after-ms"]) > 0
            assert response.json()["error"]["code"] == "overloaded"
            with pytest.raises(openai.RateLimitError):
                await api.sdk.chat.completions.create(model="tiny", messages=HI["messages"])


async def test_redis_away_is_503_until_it_is_back(own_valkey: EmbeddedRedis) -> None:
    async with running_worker(own_valkey.url) as worker, running_api(own_valkey.url) as api:
        assert (await api.http.post(CHAT, json=HI)).status_code == 200
        own_valkey.kill()
        for body in (HI, STREAM):
            response = await api.http.post(CHAT, json=body)
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert response.json()["error"]["code"] == "unavailable"
        ready = await api.http.get("/ready")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["Redis cannot be reached"])
        assert (await api.http.get("/health")).status_code == 200
        own_valkey.start()
        await until_served(api, HI)
        assert worker.claims


async def test_an_api_started_without_redis_serves_once_it_is_there(own_valkey: EmbeddedRedis) -> None:
    own_valkey.kill()
    async with running_api(own_valkey.url) as api:
        assert (await api.http.get("/health")).status_code == 200
        assert (await api.http.post(CHAT, json=HI)).status_code == 503
        own_valkey.start()
        async with running_worker(own_valkey.url):
            await until_served(api, STREAM)


async def test_a_server_that_stops_ends_what_nobody_can_come_back_for(valkey_url: str) -> None:
    async with running_worker(valkey_url, script=slowly) as worker:
        async with running_api(valkey_url, shutdown_grace_s=0) as api:
            waiting = asyncio.create_task(api.http.post(CHAT, json=HI))
            await eventually(lambda: len(worker.claims) == 1)
            await api.stop()
            response = await waiting
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        await until_cancelled(worker)
