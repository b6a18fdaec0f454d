"""Where servers of this kind differ: what this one does, and the options that make it do as others."""

import json
import logging
from typing import Any

import pytest
from live_api import Api, data_lines, running_api
from scripted_worker import ScriptedWorker

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"prompt": "hi"}
BODIES = [(CHAT, HI), (TEXT, PROMPT)]


async def refusal(api: Api, path: str, body: dict[str, Any], **headers: str) -> tuple[int, str, str]:
    response = await api.http.post(path, json=body, headers=headers)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["param"], error["message"]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_what_does_not_fit_is_cut_or_refused_where_the_server_is_strict(
    valkey_url: str, worker: ScriptedWorker, path: str, body: dict[str, Any]
) -> None:
    body = body | {"max_tokens": 512}
    async with running_api(valkey_url) as api:
        assert (await api.http.post(path, json=body)).status_code == 200
        assert worker.jobs[-1].stopping.max_tokens < 512
    async with running_api(valkey_url, strict_max_tokens=True) as api:
        status, param, message = await refusal(api, path, body)
        assert (status, param) == (400, "max_tokens")
        assert "context of 512, got 512" in message
        room = 512 - len(worker.jobs[-1].prompt) // 4
        assert (await api.http.post(path, json=body | {"max_tokens": room})).status_code == 200
        assert (await api.http.post(CHAT, json=HI)).status_code == 200
    assert len(worker.jobs) == 3


async def test_the_newer_name_of_the_limit_is_blamed_when_it_was_used(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, strict_max_tokens=True) as api:
        status, param, _ = await refusal(api, CHAT, HI | {"max_completion_tokens": 512})
        assert (status, param) == (400, "max_completion_tokens")


@pytest.mark.parametrize("off", [0, -1])
async def test_top_k_has_two_ways_to_be_off(api: Api, worker: ScriptedWorker, off: int) -> None:
    assert (await api.http.post(TEXT, json=PROMPT | {"top_k": off})).status_code == 200
    assert worker.jobs[-1].sampling.top_k == 0


async def test_a_repetition_penalty_has_no_upper_bound(api: Api, worker: ScriptedWorker) -> None:
    assert (await api.http.post(TEXT, json=PROMPT | {"repetition_penalty": 7.5})).status_code == 200
    assert worker.jobs[-1].sampling.repetition_penalty == 7.5


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_usage_is_streamed_on_request_or_always_where_the_server_says_so(
    valkey_url: str, worker: ScriptedWorker, path: str, body: dict[str, Any]
) -> None:
    async def usages(api: Api, **fields: object) -> list[dict[str, Any]]:
        *events, done = data_lines((await api.http.post(path, json=body | {"stream": True} | fields)).text)
        assert done == "[DONE]"
        return [found for event in events if (found := json.loads(event).get("usage"))]

    async with running_api(valkey_url) as api:
        assert await usages(api) == []
        assert await usages(api, stream_options={}) == []
        assert await usages(api, stream_options={"include_usage": False}) == []
        [asked] = await usages(api, stream_options={"include_usage": True})
    async with running_api(valkey_url, enable_force_include_usage=True) as api:
        assert await usages(api) == [asked]
        assert await usages(api, stream_options={"include_usage": False}) == [asked]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_the_name_that_was_asked_for_comes_back_or_the_first_one(
    valkey_url: str, worker: ScriptedWorker, path: str, body: dict[str, Any]
) -> None:
    async def named(api: Api, model: str | None) -> set[str]:
        asked = body | {"model": model}
        whole = (await api.http.post(path, json=asked)).json()["model"]
        *events, _done = data_lines((await api.http.post(path, json=asked | {"stream": True})).text)
        return {whole, *(json.loads(event)["model"] for event in events)}

    async with running_api(valkey_url) as api:
        assert await named(api, "small/alias") == {"small/alias"}
        assert await named(api, None) == {"tiny"}
    async with running_api(valkey_url, first_served_name=True) as api:
        assert await named(api, "small/alias") == {"tiny"}


async def test_a_task_that_no_model_does_is_refused_and_an_unknown_model_is_not_found(api: Api) -> None:
    for path in ("/v1/embeddings", "/score", "/v2/rerank", "/pooling", "/classify"):
        status, param, message = await refusal(api, path, {"model": "small/alias", "input": "a"})
        assert (status, param) == (400, "model")
        assert path in message
        assert "'tiny' generates text" in message
        assert (await refusal(api, path, {"input": "a"}))[0] == 400
        assert (await refusal(api, path, {"model": "other"}))[0] == 404
    form = await api.http.post("/v1/audio/transcriptions", files={"file": b"RIFF"}, data={"model": "tiny"})
    assert form.status_code == 400
    assert "transcribe" in form.json()["error"]["message"]


async def test_tasks_that_are_not_done_are_behind_the_key_all_the_same(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, api_keys="one") as api:
        for path in ("/score", "/rerank", "/pooling", "/classify", "/v1/embeddings", "/invocations", "/load"):
            assert (await api.http.post(path, json={})).status_code == 401, path


async def test_who_came_first_is_served_first_where_the_server_says_so(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, scheduling_policy="fcfs") as api:
        status, param, message = await refusal(api, TEXT, PROMPT | {"priority": 3})
        assert (status, param) == (400, "priority")
        assert "got 3" in message
        assert (await refusal(api, TEXT, PROMPT, **{"X-Vllm-Priority": "-1"}))[0] == 400
        for fields in ({}, {"priority": 0}, {"priority": None}, {"service_tier": "flex"}):
            assert (await api.http.post(TEXT, json=PROMPT | fields)).status_code == 200
    assert {job.header.priority for job in worker.jobs} == {0}


async def test_a_priority_in_a_header_goes_before_the_one_in_the_body(api: Api, worker: ScriptedWorker) -> None:
    headers = {"X-Vllm-Priority": "-4"}
    assert (await api.http.post(TEXT, json=PROMPT | {"priority": 3}, headers=headers)).status_code == 200
    assert (await api.http.post(TEXT, json=PROMPT | {"priority": 3})).status_code == 200
    assert [job.header.priority for job in worker.jobs] == [-4, 3]
    for wrong in ("high", "1.5", "", "9" * 17, str(2**53)):
        assert (await refusal(api, TEXT, PROMPT, **{"X-Vllm-Priority": wrong}))[:2] == (400, "X-Vllm-Priority")


async def test_the_number_of_stop_strings_is_up_to_the_server(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, max_stop_strings=4) as api:
        assert (await api.http.post(TEXT, json=PROMPT | {"stop": list("wxyz")})).status_code == 200
        assert (await refusal(api, TEXT, PROMPT | {"stop": list("vwxyz")}))[:2] == (400, "stop")


async def test_some_paths_can_be_left_out_of_the_log(
    valkey_url: str, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_api(valkey_url, disable_access_log_for_endpoints="/v1/models, /version") as api:
        for path in ("/v1/models", "/version", "/v1/models/tiny"):
            await api.http.get(path)
    logged = [vars(line)["path"] for line in caplog.records if line.message == "request answered"]
    assert logged == ["/v1/models/tiny"]


async def test_streams_stay_silent_where_comments_are_switched_off(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, keep_alive_s=0) as api:
        text = (await api.http.post(TEXT, json=PROMPT | {"stream": True})).text
    assert text.endswith("data: [DONE]\n\n")
    assert ": " not in [line[:2] for line in text.split("\n")]
