"""The openai SDK when things go wrong: which exception it raises, when it tries again, how long it waits."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from eventually import eventually
from live_api import Api, running_api
from openai import AsyncOpenAI
from scripted_worker import Frames, ScriptedWorker, running_worker, say

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import Delta, Failed, Started
from headrace_shared.queue.claims import Claim
from headrace_shared.settings import QueueSettings

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


async def obedient(worker: ScriptedWorker, claim: Claim) -> Frames:
    """Fails with the error code that the prompt names, never ends on ``slowly``, says hello to anything else."""
    asked = worker.text_of(unpack_ids(claim.job.prompt))
    yield [Started("scripted")]
    while "slowly" in asked:
        yield [Delta(0, [1], "w")]
        await asyncio.sleep(0.6)
    for code in ErrorCode:
        if f">{code.value}\n" in asked:
            yield [Failed(code, f"this is {code.value}", None)]
            return
    async for events in say(claim.job, "Hello!"):
        yield events[1:] if isinstance(events[0], Started) else events


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    async with running_worker(valkey_url, script=obedient) as worker:
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    async with running_api(valkey_url, disconnect_linger_s=0) as api:
        yield api


def saying(text: str) -> dict[str, Any]:
    return ASK | {"messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (ErrorCode.INVALID_REQUEST, openai.BadRequestError),
        (ErrorCode.CONTEXT_LENGTH_EXCEEDED, openai.BadRequestError),
        (ErrorCode.OVERLOADED, openai.RateLimitError),
        (ErrorCode.POISONED, openai.InternalServerError),
        (ErrorCode.INTERNAL, openai.InternalServerError),
        (ErrorCode.UNAVAILABLE, openai.InternalServerError),
        (ErrorCode.DEADLINE_EXCEEDED, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_of_the_worker_is_the_exception_of_its_kind(
    api: Api, code: ErrorCode, raised: type[openai.APIStatusError], stream: bool
) -> None:
    with pytest.raises(raised) as caught:
        await api.sdk.chat.completions.create(**saying(code.value), stream=stream)
    assert type(caught.value) is raised
    assert caught.value.code == code.value


async def test_a_wrong_key_is_an_authentication_error(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, api_keys="right") as api:
        with pytest.raises(openai.AuthenticationError) as caught:
            await api.sdk.chat.completions.create(**ASK)
        assert caught.value.code == "invalid_api_key"
        assert (await api.sdk.with_options(api_key="right").chat.completions.create(**ASK)).choices


async def test_nobody_there_is_a_connection_error() -> None:
    async with AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(**ASK)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_runs_out_of_patience_leaves_no_work_behind(
    api: Api, worker: ScriptedWorker, stream: bool
) -> None:
    impatient = api.sdk.with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        await _read(await impatient.chat.completions.create(**saying("slowly"), stream=stream))
    await eventually(lambda: len(worker.jobs) == 1)
    [job] = worker.jobs

    async def over() -> bool:
        report = await api.http.get(f"/v1/requests/{job.header.request_id}")
        return (report.json()["status"], report.json()["cancel_requested"]) == ("failed", True)

    await eventually(over)


@pytest.mark.parametrize("way", [{"extra_body": {"timeout": 0.2}}, {"extra_headers": {"X-Request-Timeout": "0.2"}}])
async def test_a_deadline_can_be_left_to_the_server(api: Api, way: dict[str, Any]) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await api.sdk.chat.completions.create(**saying("slowly"), **way)
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")


async def test_a_full_queue_is_tried_again_until_there_is_room(valkey_url: str, worker: ScriptedWorker) -> None:
    await worker.stop_claiming()
    async with running_api(valkey_url, queue=QueueSettings(max_requests=1)) as api:
        waiting = asyncio.create_task(api.sdk.chat.completions.create(**ASK))
        await eventually(lambda: _waits(api))
        with pytest.raises(openai.RateLimitError) as caught:
            await api.sdk.chat.completions.create(**ASK)
        refused = caught.value.response
        assert refused.headers["x-should-retry"] == "true"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        patient = asyncio.create_task(api.sdk.with_options(max_retries=5).chat.completions.create(**ASK))
        await asyncio.sleep(0.3)
        worker.go_on_claiming()
        for answer in await asyncio.gather(waiting, patient):
            assert answer.choices[0].message.content == "Hello!"


async def test_a_rate_limit_is_waited_out(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, requests_per_minute=120) as api:
        raw = await api.sdk.chat.completions.with_raw_response.create(**ASK)
        assert raw.headers["x-ratelimit-limit-requests"] == "120"
        left = int(raw.headers["x-ratelimit-remaining-requests"])
        create = api.sdk.chat.completions.create
        answers = await asyncio.gather(*(create(**ASK) for _ in range(left + 10)), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
        assert refused
        assert refused[0].code == "rate_limit_exceeded"
        assert int(refused[0].response.headers["retry-after-ms"]) <= 10_000
        assert (await api.sdk.with_options(max_retries=4).chat.completions.create(**ASK)).choices


async def test_a_failure_in_the_middle_of_a_stream_is_raised_after_what_was_said(
    valkey_url: str, api: Api, worker: ScriptedWorker
) -> None:
    async def breaks(_worker: ScriptedWorker, _claim: Claim) -> Frames:
        yield [Started("scripted"), Delta(0, [1], "so far")]
        await asyncio.sleep(0.05)
        yield [Failed(ErrorCode.POISONED, "no further", None)]

    said: list[str] = []
    async with running_worker(valkey_url, "breaking", script=breaks):
        await eventually(lambda: _is_served(api, "breaking"))
        stream = await api.sdk.chat.completions.create(**ASK | {"model": "breaking"}, stream=True)
        with pytest.raises(openai.APIError, match="no further"):
            await _read(stream, said)
    assert "".join(said) == "so far"


async def _read(stream: Any, said: list[str] | None = None) -> None:
    async for chunk in stream:
        if said is not None:
            said.append(chunk.choices[0].delta.content or "")


async def _waits(api: Api) -> bool:
    return bool((await api.http.get("/autoscale/tiny")).json()["queued_requests"] == 1)


async def _is_served(api: Api, model: str) -> bool:
    return (await api.http.get(f"/v1/models/{model}")).status_code == 200
