"""GET /v1/requests/{id}, cancelling, deadlines, and what a client is told while it waits."""

import asyncio
import json
from typing import Any

import openai
import pytest
from eventually import eventually
from live_api import Api, running_api, sse_events
from scripted_worker import Frames, ScriptedWorker, running_worker

from headrace_shared.protocol.event import Delta, Started
from headrace_shared.queue.claims import Claim
from headrace_shared.settings import QueueSettings

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = HI | {"stream": True}


async def slowly(_worker: ScriptedWorker, _claim: Claim) -> Frames:
    """A token each few milliseconds, for ever."""
    yield [Started("scripted")]
    while True:
        yield [Delta(0, [1], "x")]
        await asyncio.sleep(0.005)


async def report(api: Api, request_id: str) -> dict[str, Any]:
    response = await api.http.get(f"/v1/requests/{request_id}")
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


async def test_a_finished_request_tells_its_times(api: Api) -> None:
    answer = (await api.http.post(CHAT, json=HI | {"priority": 7})).json()
    told = await report(api, answer["id"])
    assert f"chatcmpl-{told['id']}" == answer["id"]
    assert (told["object"], told["endpoint"], told["model"], told["status"]) == ("request", "chat", "tiny", "finished")
    assert (told["created"], told["priority"], told["attempts"], told["lost_workers"]) == (answer["created"], 7, 1, 0)
    assert (told["ahead"], told["eta_ms"], told["jobs"], told["cancel_requested"]) == (None, None, [], False)
    assert 0 <= told["queued_ms"] <= told["time_to_first_token_ms"] <= told["total_ms"]


async def test_several_prompts_are_told_one_by_one(api: Api) -> None:
    answer = (await api.http.post(COMPLETIONS, json={"prompt": ["a", "b"]})).json()
    told = await report(api, answer["id"])
    assert (told["endpoint"], told["status"]) == ("completions", "finished")
    assert [job["id"] for job in told["jobs"]] == [f"{told['id']}-0", f"{told['id']}-1"]


async def test_a_waiting_request_tells_its_place_in_answer_and_report(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url, first_event_wait_s=0.05) as api:
        await worker.stop_claiming()
        opened = [api.http.stream("POST", CHAT, json=STREAM) for _ in range(3)]
        for position, stream in enumerate(opened):
            response = await stream.__aenter__()
            assert response.headers["x-queue-position"] == str(position)
            told = await report(api, response.headers["x-headrace-request-id"])
            assert (told["status"], told["ahead"], told["queued_ms"]) == ("queued", position, None)
        for stream in opened:
            await stream.__aexit__(None, None, None)


async def test_cancelling_ends_the_stream_with_an_error_and_is_idempotent(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url, script=slowly) as worker,
        running_api(valkey_url) as api,
        running_api(valkey_url) as other,
    ):
        streaming = asyncio.create_task(api.http.post(CHAT, json=STREAM))
        await eventually(lambda: len(worker.claims) == 1)
        request_id = worker.claims[0].request_id
        assert (await report(other, request_id))["status"] == "running"
        cancelled = [(await other.http.post(f"/v1/requests/{request_id}/cancel")) for _ in range(3)]
        assert [response.status_code for response in cancelled] == [200, 200, 200]
        assert cancelled[-1].json()["cancel_requested"] is True
        events = sse_events((await streaming).text)
        error = json.loads(events[-2][1])["error"]
        assert (error["code"], error["type"]) == ("cancelled", "cancelled_error")
        assert (await report(api, request_id))["status"] == "failed"


async def test_cancelling_what_waits_ends_all_its_prompts(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url, first_event_wait_s=0) as api:
        await worker.stop_claiming()
        body = {"prompt": ["a", "b"], "stream": True}
        async with api.http.stream("POST", COMPLETIONS, json=body) as response:
            request_id = response.headers["x-headrace-request-id"]
            told = (await api.http.post(f"/v1/requests/cmpl-{request_id}/cancel")).json()
            assert [job["status"] for job in told["jobs"]] == ["failed", "failed"]
            assert (told["status"], told["attempts"]) == ("failed", 0)
            events = sse_events((await response.aread()).decode())
            assert json.loads(events[0][1])["error"]["code"] == "cancelled"
            assert [event_id for event_id, _ in events] == [f"{request_id}:0.0"] * 2


async def test_cancelling_what_is_finished_changes_nothing(api: Api) -> None:
    answer = (await api.http.post(CHAT, json=HI)).json()
    response = await api.http.post(f"/v1/requests/{answer['id']}/cancel")
    assert (response.status_code, response.json()["status"]) == (200, "finished")
    assert (await api.http.get(f"/v1/requests/{answer['id']}/stream")).text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("header", "body"), [("0.3", None), (None, 0.3), ("0.3", 50), ("50", 0.3), ("3e-1", None), (None, 1e-9)]
)
async def test_a_deadline_ends_the_request_with_504(valkey_url: str, header: str | None, body: float | None) -> None:
    async with running_worker(valkey_url, script=slowly) as worker, running_api(valkey_url) as api:
        headers = {} if header is None else {"X-Request-Timeout": header}
        fields = {} if body is None else {"timeout": body}
        response = await api.http.post(CHAT, json=HI | fields, headers=headers)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        assert len(worker.claims) <= 1


async def test_what_expires_while_it_waits_is_never_begun(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker, running_api(valkey_url) as api:
        await worker.stop_claiming()
        with pytest.raises(openai.InternalServerError) as told:
            await api.sdk.chat.completions.create(model="tiny", **HI, extra_headers={"X-Request-Timeout": "0.2"})
        assert told.value.status_code == 504
    assert worker.claims == []


async def test_the_servers_limit_stays_above_what_clients_ask_for(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url, script=slowly),
        running_api(valkey_url, request_timeout_s=0.3) as api,
    ):
        assert (await api.http.post(CHAT, json=HI | {"timeout": 1000})).status_code == 504


@pytest.mark.parametrize("value", ["", "x", "0", "-1", "nan", "inf", "1,5"])
async def test_a_timeout_that_is_none_is_400(api: Api, value: str) -> None:
    response = await api.http.post(CHAT, json=HI, headers={"X-Request-Timeout": value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "X-Request-Timeout")


@pytest.mark.parametrize("value", [0, -1, "1", True])
async def test_a_timeout_in_the_body_that_is_none_is_400(api: Api, value: object) -> None:
    response = await api.http.post(CHAT, json=HI | {"timeout": value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "timeout")


async def test_the_sdks_own_timeout_header_means_nothing(api: Api, worker: ScriptedWorker) -> None:
    response = await api.http.post(CHAT, json=HI, headers={"x-stainless-read-timeout": "0.001"})
    assert response.status_code == 200


@pytest.mark.parametrize("value", ["", "stay", "Continue"])
async def test_an_unknown_wish_for_a_disconnect_is_400(api: Api, value: str) -> None:
    response = await api.http.post(CHAT, json=HI, headers={"X-Headrace-On-Disconnect": value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "X-Headrace-On-Disconnect")


async def test_a_full_queue_says_whether_coming_back_in_time_is_possible(valkey_url: str) -> None:
    async with running_worker(valkey_url) as worker:
        await worker.stop_claiming()
        async with (
            running_api(valkey_url, queue=QueueSettings(max_requests=1), first_event_wait_s=0) as api,
            api.http.stream("POST", CHAT, json=STREAM),
        ):
            for timeout, retry in ((None, "true"), ("20", "true"), ("0.5", "false")):
                headers = {} if timeout is None else {"X-Request-Timeout": timeout}
                response = await api.http.post(CHAT, json=HI, headers=headers)
                assert response.status_code == 429
                assert response.headers["x-should-retry"] == retry
                assert response.headers["retry-after"] == "1"
                assert response.headers["retry-after-ms"] == "1000"
