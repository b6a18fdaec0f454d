"""Looking before leaping: what a request would become, and what clients need who write prompts themselves."""

from typing import Any

import pytest
from live_api import Api, running_api
from scripted_worker import BOS, TEMPLATE, ScriptedWorker

from headrace_shared.protocol.codec import unpack_ids

HI: list[Any] = [{"role": "user", "content": "hi"}]
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI, "temperature": 0.5, "n": 2, "stop": "x", "max_tokens": 9}),
    ("/v1/completions", {"prompt": ["a", "b"], "logit_bias": {"7": 3}}),
    ("/v1/responses", {"input": "hi", "instructions": "be", "top_p": 0.5}),
    ("/v1/messages", {"messages": HI, "system": "be", "max_tokens": 5}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_a_dry_run_shows_the_very_jobs_that_a_worker_would_get(
    api: Api, worker: ScriptedWorker, path: str, body: dict[str, Any]
) -> None:
    dry = await api.http.post(f"{path}/render", json=body | {"seed": 3} if "messages" not in path else body)
    assert dry.status_code == 200, dry.text
    shown = dry.json()
    assert (shown["object"], shown["model"], shown["max_model_len"]) == ("render", "tiny", 512)
    assert worker.claims == []
    assert (await api.http.post(path, json=body | {"seed": 3} if "messages" not in path else body)).status_code == 200
    jobs = sorted(worker.jobs, key=lambda job: job.header.request_id[-2:])
    assert len(jobs) == len(shown["prompts"])
    for job, prompt in zip(jobs, shown["prompts"], strict=True):
        assert prompt["token_ids"] == list(unpack_ids(job.prompt))
        assert prompt["prompt"] == worker.text_of(prompt["token_ids"])
        assert prompt["choices"] == job.n
        assert prompt["sampling"]["temperature"] == job.sampling.temperature
        assert prompt["sampling"]["top_p"] == job.sampling.top_p
        assert prompt["stopping"]["max_tokens"] == job.stopping.max_tokens
        assert prompt["stopping"]["stop"] == list(job.stopping.stop)


async def test_a_dry_run_is_refused_as_the_request_would_be(api: Api) -> None:
    response = await api.http.post("/v1/chat/completions/render", json={"messages": HI, "temperature": 3})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "temperature")
    response = await api.http.post("/v1/messages/render", json={"messages": HI, "max_tokens": 0})
    assert (response.status_code, response.json()["type"]) == (400, "error")


async def test_the_tokenizer_is_described_where_the_operator_wants_that(
    valkey_url: str, worker: ScriptedWorker, api: Api
) -> None:
    assert (await api.http.get("/tokenizer_info")).status_code == 404
    async with running_api(valkey_url, enable_tokenizer_info_endpoint=True) as open_api:
        for params in ({}, {"model": "small/alias"}):
            told = (await open_api.http.get("/tokenizer_info", params=params)).json()
            assert told["chat_template"] == TEMPLATE
            assert (told["bos_token"], told["model_max_length"], told["vocab_size"]) == (BOS, 512, 257)
            assert told["added_tokens_decoder"] == {"256": {"content": BOS, "special": True}}
            assert told["special_tokens"] == {"bos_token": BOS}
        assert (await open_api.http.get("/tokenizer_info", params={"model": "none"})).status_code == 404
