"""Streams that go on where a client lost them: from any event, on any API node, during generation and after it."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
from eventually import eventually
from live_api import Api, running_api, sse_events
from redis.asyncio import Redis
from scripted_worker import Gated, ScriptedWorker, running_worker, say

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Event, Failed
from headrace_shared.queue.claims import Claim

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = HI | {"stream": True}
RICH = STREAM | {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 2,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


@pytest.fixture
async def other(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    """A second API node."""
    async with running_api(valkey_url) as api:
        yield api


async def stream(api: Api, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    response = await api.http.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response


async def resumed(api: Api, event_id: str, *, bare: bool = False) -> list[tuple[str, str]]:
    request_id, _, number = event_id.rpartition(":")
    path = f"/v1/requests/{request_id}/stream"
    if bare:
        response = await api.http.get(path, params={"starting_after": number})
    else:
        response = await api.http.get(path, headers={"Last-Event-ID": event_id})
    assert response.status_code == 200, response.text
    return sse_events(response.text)


async def test_every_event_has_an_id_and_they_count_from_one(api: Api) -> None:
    response = await stream(api, CHAT, RICH)
    request_id = response.headers["x-headrace-request-id"]
    events = sse_events(response.text)
    assert [event_id for event_id, _ in events] == [f"{request_id}:{n}" for n in range(1, len(events) + 1)]
    assert events[-1][1] == "[DONE]"
    assert json.loads(events[0][1])["id"] == f"chatcmpl-{request_id}"


async def test_a_chat_resumes_at_every_event_with_the_same_bytes_on_another_node(api: Api, other: Api) -> None:
    events = sse_events((await stream(api, CHAT, RICH)).text)
    assert len(events) > 14
    for position, (event_id, _) in enumerate(events):
        assert await resumed(other, event_id) == events[position + 1 :]
    assert await resumed(other, events[0][0], bare=True) == events[1:]


async def test_a_stream_can_be_had_again_from_its_beginning(api: Api, other: Api) -> None:
    response = await stream(api, CHAT, RICH)
    request_id = response.headers["x-headrace-request-id"]
    for name in (request_id, f"chatcmpl-{request_id}"):
        again = await other.http.get(f"/v1/requests/{name}/stream")
        assert again.text == response.text
        assert again.headers["content-type"].startswith("text/event-stream")


def by_prompt(events: list[tuple[str, str]], choices: int = 1) -> dict[int | str, list[str]]:
    """Each prompt's events in order, and the closing ones."""
    found: dict[int | str, list[str]] = {}
    for _, data in events:
        shown = json.loads(data)["choices"] if data != "[DONE]" else []
        key: int | str = shown[0]["index"] // choices if shown else "closing"
        found.setdefault(key, []).append(data)
    return found


async def test_several_prompts_resume_at_every_event_each_at_its_own(api: Api, other: Api) -> None:
    body = {
        "prompt": ["a", "b", "c"],
        "n": 2,
        "logprobs": 1,
        "echo": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    events = sse_events((await stream(api, COMPLETIONS, body)).text)
    whole = by_prompt(events, 2)
    assert set(whole) == {0, 1, 2, "closing"}
    for position, (event_id, _) in enumerate(events):
        rest = await resumed(other, event_id)
        together = by_prompt([*events[: position + 1], *rest], 2)
        assert together == whole
        if rest:
            assert rest[-1][0] == events[-1][0]


async def test_what_is_still_running_is_followed_to_its_end_from_any_event(valkey_url: str) -> None:
    script = Gated()
    async with (
        running_worker(valkey_url, script=script) as worker,
        running_api(valkey_url) as api,
        running_api(valkey_url) as other,
    ):
        asking = asyncio.create_task(stream(api, CHAT, RICH, **{"X-Request-Id": "mine"}))
        await eventually(lambda: len(worker.claims) == 1)
        request_id = worker.claims[0].request_id
        following = [
            asyncio.create_task(resumed(node, f"{request_id}:{number}"))
            for node in (api, other)
            for number in range(20)
        ]
        await asyncio.sleep(0.2)
        script.go_on.set()
        events = sse_events((await asking).text)
        for number, rest in enumerate(await asyncio.gather(*following)):
            assert rest == events[number % 20 :]
        assert len(worker.claims) == 1


async def test_a_client_that_comes_back_in_time_keeps_its_request_running(valkey_url: str) -> None:
    script = Gated()
    async with (
        running_worker(valkey_url, script=script) as worker,
        running_api(valkey_url, disconnect_linger_s=0.3) as api,
        running_api(valkey_url) as other,
    ):
        async with api.http.stream("POST", CHAT, json=STREAM) as response:
            request_id = response.headers["x-headrace-request-id"]
        following = asyncio.create_task(other.http.get(f"/v1/requests/{request_id}/stream"))
        await asyncio.sleep(2.0)  # the linger, and the second look
        script.go_on.set()
        events = sse_events((await following).text)
        text = "".join(json.loads(data)["choices"][0]["delta"]["content"] for _, data in events[:-1])
        assert text == "Hello!"
        assert worker.cancelled == []


async def test_a_client_that_does_not_come_back_has_its_request_cancelled(valkey_url: str) -> None:
    script = Gated()
    async with (
        running_worker(valkey_url, script=script) as worker,
        running_api(valkey_url, disconnect_linger_s=0.2) as api,
    ):
        async with api.http.stream("POST", CHAT, json=STREAM) as response:
            request_id = response.headers["x-headrace-request-id"]

        async def cancelled() -> bool:
            report = (await api.http.get(f"/v1/requests/{request_id}")).json()
            return bool(report["cancel_requested"])

        await eventually(cancelled)
        script.go_on.set()
        await eventually(lambda: worker.cancelled == [request_id])


async def test_a_request_sent_to_continue_runs_without_its_client(valkey_url: str) -> None:
    script = Gated()
    async with (
        running_worker(valkey_url, script=script) as worker,
        running_api(valkey_url, disconnect_linger_s=0) as api,
        running_api(valkey_url) as other,
    ):
        headers = {"X-Headrace-On-Disconnect": "continue"}
        async with api.http.stream("POST", CHAT, json=STREAM, headers=headers) as response:
            request_id = response.headers["x-headrace-request-id"]
        assert worker.jobs[0].header.detached
        await asyncio.sleep(0.5)
        script.go_on.set()

        async def finished() -> bool:
            return bool((await other.http.get(f"/v1/requests/{request_id}")).json()["status"] == "finished")

        await eventually(finished)
        events = sse_events((await other.http.get(f"/v1/requests/{request_id}/stream")).text)
        assert events[-1][1] == "[DONE]"


async def test_a_whole_answer_can_be_followed_as_a_stream(api: Api, other: Api) -> None:
    answer = await stream(api, CHAT, HI)
    request_id = answer.json()["id"]
    events = sse_events((await other.http.get(f"/v1/requests/{request_id}/stream")).text)
    chunks = [json.loads(data) for _, data in events[:-1]]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Hello!"
    assert {chunk["id"] for chunk in chunks} == {request_id}
    assert {chunk["created"] for chunk in chunks} == {answer.json()["created"]}


async def test_an_answer_can_be_had_after_its_model_has_left(valkey_url: str) -> None:
    async with running_worker(valkey_url), running_api(valkey_url) as api:
        response = await stream(api, CHAT, STREAM)
    async with running_api(valkey_url) as fresh:
        assert (await fresh.http.get("/v1/models")).json()["data"] == []
        again = await fresh.http.get(f"/v1/requests/{response.headers['x-headrace-request-id']}/stream")
        assert again.text == response.text


@pytest.mark.parametrize(
    "event_id", ["x", "", "1.2", "-1", "1e3", "other:1", "{id}:", "{id}:x", "{id}:1.1", "9" * 40, "{id}", "²"]
)
async def test_an_event_id_that_is_none_is_400(api: Api, event_id: str) -> None:
    request_id = (await stream(api, CHAT, STREAM)).headers["x-headrace-request-id"]
    params = {"starting_after": event_id.format(id=request_id)}
    response = await api.http.get(f"/v1/requests/{request_id}/stream", params=params)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "starting_after"


async def test_the_header_goes_before_the_parameter_that_a_browser_repeats(api: Api) -> None:
    response = await stream(api, CHAT, STREAM)
    events = sse_events(response.text)
    request_id = response.headers["x-headrace-request-id"]
    rest = await api.http.get(
        f"/v1/requests/{request_id}/stream?starting_after=1", headers={"Last-Event-ID": events[3][0]}
    )
    assert sse_events(rest.text) == events[4:]


async def test_what_is_unknown_is_404(api: Api) -> None:
    for method, path in (("GET", ""), ("GET", "/stream"), ("POST", "/cancel")):
        response = await api.http.request(method, f"/v1/requests/nothing{path}")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"


async def test_requests_of_other_keys_look_as_if_they_did_not_exist(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, api_keys="one,two") as api:
        mine, theirs = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
        response = await stream(api, CHAT, STREAM, **mine)
        request_id = response.headers["x-headrace-request-id"]
        for method, path in (("GET", ""), ("GET", "/stream"), ("POST", "/cancel")):
            url = f"/v1/requests/{request_id}{path}"
            refused = await api.http.request(method, url, headers=theirs)
            unknown = await api.http.request(method, url.replace(request_id, "0" * 32), headers=theirs)
            assert refused.status_code == unknown.status_code == 404
            assert refused.text.replace(request_id, "0" * 32) == unknown.text
            assert (await api.http.request(method, url)).status_code == 401
            assert (await api.http.request(method, url, headers=mine)).status_code == 200


async def test_a_failed_stream_tells_its_failure_again(valkey_url: str) -> None:
    async def fails(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        async for events in say(claim.job, "Hello!"):
            if any(getattr(event, "finish_reason", None) for event in events):
                yield [Failed(ErrorCode.POISONED, "no more")]
                return
            yield events

    async with running_worker(valkey_url, script=fails), running_api(valkey_url) as api:
        events = sse_events((await stream(api, CHAT, STREAM)).text)
        assert json.loads(events[-2][1])["error"]["code"] == "request_poisoned"
        assert events[-1][0] == events[-2][0] == events[-3][0]
        for position, (event_id, _) in enumerate(events[:-2]):
            assert await resumed(api, event_id) == events[position + 1 :]


async def test_a_stream_goes_on_when_redis_has_lost_everything(valkey_url: str) -> None:
    async def hangs_at_first(worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        count = 0
        async for events in say(claim.job, "Hello!"):
            count += 1
            if count > 3 and len(worker.claims) == 1:
                await asyncio.Event().wait()
            yield events

    async with running_worker(valkey_url, script=hangs_at_first) as worker, running_api(valkey_url) as api:
        undisturbed = asyncio.create_task(stream(api, CHAT, RICH))
        await eventually(lambda: len(worker.claims) == 1)
        request_id = worker.claims[0].request_id

        async def spoken() -> bool:
            return (await api.http.get(f"/v1/requests/{request_id}")).json()["time_to_first_token_ms"] is not None

        await eventually(spoken)
        await asyncio.sleep(0.1)
        async with Redis.from_url(valkey_url) as redis:
            await redis.flushall()
        response = await undisturbed
        events = sse_events(response.text)
        assert [event_id for event_id, _ in events] == [f"{request_id}:{n}" for n in range(1, len(events) + 1)]
        again = await api.http.get(f"/v1/requests/{request_id}/stream")
        assert again.text == response.text
        assert len(worker.claims) == 2
