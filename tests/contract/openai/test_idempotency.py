"""Idempotency-Key: a repeated POST gets the answer of the first one and nothing runs twice."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from eventually import eventually
from live_api import Api, running_api, sse_events
from scripted_worker import Frames, ScriptedWorker, running_worker, say

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Failed
from headrace_shared.queue.claims import Claim

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ONCE = {"Idempotency-Key": "once"}


async def post(api: Api, body: dict[str, Any], path: str = CHAT, **headers: str) -> httpx.Response:
    return await api.http.post(path, json=body, headers=ONCE | headers)


@pytest.mark.parametrize("body", [HI, HI | {"stream": True, "n": 2}])
async def test_a_repeat_gets_the_same_bytes_on_any_node(
    api: Api, worker: ScriptedWorker, valkey_url: str, body: dict[str, Any]
) -> None:
    first = await post(api, body)
    assert "x-headrace-idempotent-replay" not in first.headers
    async with running_api(valkey_url) as other:
        for node in (api, other):
            again = await post(node, body)
            assert again.text == first.text
            assert again.headers["x-headrace-idempotent-replay"] == "true"
            assert again.headers["x-headrace-request-id"] == first.headers["x-headrace-request-id"]
    assert len(worker.claims) == 1


async def test_repeats_while_it_runs_attach_to_it(valkey_url: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waits(_worker: ScriptedWorker, claim: Claim) -> Frames:
        begun.set()
        await go_on.wait()
        async for events in say(claim.job, "Hello!"):
            yield events

    async with (
        running_worker(valkey_url, script=waits) as worker,
        running_api(valkey_url) as api,
        running_api(valkey_url) as other,
    ):
        first = [asyncio.create_task(post(node, HI)) for node in (api, other) for _ in range(4)]
        await begun.wait()
        more = [asyncio.create_task(post(node, HI)) for node in (api, other)]
        await asyncio.sleep(0.1)
        go_on.set()
        answers = await asyncio.gather(*first, *more)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        assert len(worker.claims) == 1


async def test_several_prompts_are_repeated_together(api: Api, worker: ScriptedWorker) -> None:
    body = {"prompt": ["a", "b", "c"]}
    first, again = [await post(api, body, COMPLETIONS) for _ in range(2)]
    assert again.text == first.text
    assert len(worker.claims) == 3


async def test_the_same_json_written_differently_is_the_same_request(api: Api, worker: ScriptedWorker) -> None:
    headers = ONCE | {"Content-Type": "application/json"}
    texts = ['{"prompt": "a", "max_tokens": 3}', '{ "max_tokens":3,"prompt":"\\u0061" }']
    answers = [await api.http.post(COMPLETIONS, content=text, headers=headers) for text in texts]
    assert answers[0].text == answers[1].text
    assert len(worker.claims) == 1


async def test_another_body_is_a_conflict(api: Api, valkey_url: str) -> None:
    await post(api, HI)
    async with running_worker(valkey_url, name="second"):

        async def known() -> bool:
            return len((await api.http.get("/v1/models")).json()["data"]) == 3

        await eventually(known)
        changes = ({"max_tokens": 3}, {"stream": True}, {"model": "second"})
        for refused in [await post(api, HI | {"model": "tiny"} | change) for change in changes]:
            assert refused.status_code == 409
            error = refused.json()["error"]
            assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")
    with pytest.raises(openai.ConflictError):
        await api.sdk.chat.completions.create(model="x" * 3, **HI, extra_headers=ONCE)


async def test_the_same_key_on_another_endpoint_is_a_conflict(api: Api) -> None:
    await post(api, {"prompt": "a"}, COMPLETIONS)
    assert (await post(api, HI)).status_code == 409


async def test_keys_of_different_tenants_have_nothing_to_do_with_each_other(api: Api, worker: ScriptedWorker) -> None:
    answers = [
        await post(api, HI | {"max_tokens": number}, **{"X-Headrace-Tenant": tenant})
        for number, tenant in ((1, "ann"), (2, "bob"))
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [job.header.tenant for job in worker.jobs] == ["ann", "bob"]


async def test_a_key_whose_request_failed_is_free_again(valkey_url: str) -> None:
    async def fails_once(worker: ScriptedWorker, claim: Claim) -> Frames:
        if len(worker.claims) == 1:
            yield [Failed(ErrorCode.UNAVAILABLE, "not now")]
            return
        async for events in say(claim.job, "Hello!"):
            yield events

    async with running_worker(valkey_url, script=fails_once) as worker, running_api(valkey_url) as api:
        assert (await post(api, HI)).status_code == 503
        assert (await post(api, HI)).status_code == 200
        assert len(worker.claims) == 2


async def test_a_client_that_asks_again_after_a_broken_stream_has_it_whole(valkey_url: str) -> None:
    go_on = asyncio.Event()

    async def waits(_worker: ScriptedWorker, claim: Claim) -> Frames:
        count = 0
        async for events in say(claim.job, "Hello!"):
            count += 1
            if count > 3:
                await go_on.wait()
            yield events

    async with (
        running_worker(valkey_url, script=waits) as worker,
        running_api(valkey_url, disconnect_linger_s=0.5) as api,
        running_api(valkey_url) as other,
    ):
        body = HI | {"stream": True}
        async with api.http.stream("POST", CHAT, json=body, headers=ONCE):
            pass
        again = asyncio.create_task(post(other, body))
        await asyncio.sleep(1.0)
        go_on.set()
        events = sse_events((await again).text)
        assert "".join(json.loads(data)["choices"][0]["delta"]["content"] for _, data in events[:-1]) == "Hello!"
        assert len(worker.claims) == 1


@pytest.mark.parametrize("key", ["", "a\tb", "x" * 256, "é"])
async def test_a_key_that_is_none_is_400(api: Api, key: str) -> None:
    response = await api.http.post(CHAT, json=HI, headers=[(b"idempotency-key", key.encode())])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "Idempotency-Key"
