"""POST /v1/chat/completions/batch: one choice for each conversation."""

import json
from typing import Any

import pytest
from live_api import Api, data_lines
from scripted_worker import ScriptedWorker, ids_of

from headrace_shared.protocol.codec import unpack_ids


def conversation(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


BATCH = [conversation("one"), [*conversation("two"), {"role": "assistant", "content": "and"}], conversation("three")]


async def batch(api: Api, *, status: int = 200, **fields: Any) -> Any:
    body = {"model": "tiny", "messages": BATCH} | fields
    response = await api.http.post("/v1/chat/completions/batch", json=body)
    assert response.status_code == status, response.text
    return response.json()


async def alone(api: Api, messages: list[dict[str, str]], **fields: Any) -> Any:
    response = await api.http.post("/v1/chat/completions", json={"model": "tiny", "messages": messages} | fields)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 2, "logprobs": True, "top_logprobs": 1},
        {"return_token_ids": True},
        {"echo": True, "add_generation_prompt": False},
    ],
)
async def test_every_conversation_is_answered_as_alone(api: Api, fields: dict[str, Any]) -> None:
    answer = await batch(api, **fields)
    single = [await alone(api, messages, **fields) for messages in BATCH]
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert [choice.pop("index") for choice in answer["choices"]] == [0, 1, 2]
    assert answer["choices"] == [
        {name: value for name, value in each["choices"][0].items() if name != "index"} for each in single
    ]
    assert answer["usage"] == {name: sum(each["usage"][name] for each in single) for name in single[0]["usage"]}
    assert answer["prompt_token_ids"] is None


async def test_conversations_are_jobs_of_one_request(api: Api, worker: ScriptedWorker) -> None:
    answer = await batch(api, messages=BATCH[::2])
    jobs = worker.jobs[-2:]
    assert [worker.text_of(unpack_ids(job.prompt)) for job in jobs] == [
        "<|user|>one\n<|assistant|>",
        "<|user|>three\n<|assistant|>",
    ]
    assert [f"chatcmpl-{job.header.request_id.removesuffix(f'-{number}')}" for number, job in enumerate(jobs)] == [
        answer["id"]
    ] * 2
    assert answer["usage"]["prompt_tokens"] == sum(len(ids_of(worker.text_of(unpack_ids(job.prompt)))) for job in jobs)


async def test_the_answer_is_told_again_as_one_event(api: Api) -> None:
    response = await api.http.post("/v1/chat/completions/batch", json={"model": "tiny", "messages": BATCH})
    request_id = response.headers["x-headrace-request-id"]
    again = await api.http.get(f"/v1/requests/{request_id}/stream")
    [answer, done] = data_lines(again.text)
    assert (json.loads(answer), done) == (response.json(), "[DONE]")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [[]]}, "messages[0]"),
        ({"messages": conversation("not a list of conversations")}, "messages[0]"),
        ({"messages": [conversation("a"), [{"role": "user"}]]}, "messages[1][0]"),
        ({"messages": [conversation("a"), conversation("b" * 600)]}, "messages[1]"),
    ],
)
async def test_what_a_batch_cannot_have_is_a_400_that_names_it(api: Api, fields: dict[str, Any], param: str) -> None:
    error = (await batch(api, status=400, **fields))["error"]
    assert error["param"] == param
    assert error["message"].startswith((f"{param}: ", "This model's maximum context length is 512"))
