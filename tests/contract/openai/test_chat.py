"""POST /v1/chat/completions: what clients see, through the SDK and as bytes."""

import json
from typing import Any

import pytest
from live_api import Api, data_lines
from scripted_worker import BOS, CONTEXT, ScriptedWorker, ids_of

from headrace_shared.protocol.codec import unpack_ids

HI = [{"role": "user", "content": "hi"}]


async def chat(api: Api, **fields: Any) -> Any:
    return await api.sdk.chat.completions.create(**({"model": "tiny", "messages": HI} | fields))


async def chunks_of(api: Api, **fields: Any) -> list[Any]:
    return [chunk async for chunk in await chat(api, stream=True, **fields)]


async def raw_chunks(api: Api, **fields: Any) -> list[Any]:
    response = await api.http.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": HI, "stream": True} | fields
    )
    assert response.status_code == 200, response.text
    *payloads, last = data_lines(response.text)
    assert last == "[DONE]"
    return [json.loads(payload) for payload in payloads]


def prompt_text(worker: ScriptedWorker) -> str:
    return worker.text_of(unpack_ids(worker.jobs[-1].prompt))


async def test_an_answer_comes_whole(api: Api, worker: ScriptedWorker) -> None:
    answer = await chat(api)
    assert answer.object == "chat.completion"
    assert answer.model == "tiny"
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint == f"fp_{worker.card.digest}"
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello!", "stop")
    prompt_tokens = len(ids_of("<|user|>hi\n<|assistant|>"))
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 6,
        "total_tokens": prompt_tokens + 6,
    }


async def test_a_stream_is_the_specified_sequence_of_chunks(api: Api) -> None:
    response = await api.http.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": HI, "stream": True, "max_tokens": 2}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    request_id = response.headers["x-headrace-request-id"]
    assert response.text.endswith(f"\n\nid: {request_id}:4\ndata: [DONE]\n\n")
    payloads = [json.loads(line) for line in list(data_lines(response.text))[:-1]]
    head = {key: payloads[0][key] for key in ("id", "object", "created", "model", "system_fingerprint")}
    assert head["object"] == "chat.completion.chunk"
    assert [payload.pop("choices") for payload in payloads] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "H"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "e"}, "logprobs": None, "finish_reason": "length", "stop_reason": None}],
    ]
    assert all(payload == head for payload in payloads)


async def test_the_sdk_reads_a_stream_to_its_end(api: Api) -> None:
    chunks = await chunks_of(api)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "Hello!"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_usage_comes_last_when_asked_for(api: Api) -> None:
    *chunks, last = await raw_chunks(api, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_continuous_usage_runs_along(api: Api) -> None:
    chunks = await raw_chunks(api, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 4, 5, 6, 6]


async def test_stream_options_alone_ask_for_no_usage(api: Api) -> None:
    assert all("usage" not in chunk for chunk in await raw_chunks(api, stream_options={}))


async def test_n_choices_share_one_prompt(api: Api, worker: ScriptedWorker) -> None:
    answer = await chat(api, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"Hello!"}
    assert answer.usage.completion_tokens == 18
    assert answer.usage.prompt_tokens == len(unpack_ids(worker.jobs[0].prompt))


async def test_every_choice_of_a_stream_begins_with_its_role_and_ends_once(api: Api) -> None:
    choices = [choice for chunk in await chunks_of(api, n=2) for choice in chunk.choices]
    for index in (0, 1):
        own = [choice for choice in choices if choice.index == index]
        assert own[0].delta.role == "assistant"
        assert [bool(choice.finish_reason) for choice in own].count(True) == 1
        assert own[-1].finish_reason == "stop"


async def test_max_tokens_cuts_and_says_so(api: Api, worker: ScriptedWorker) -> None:
    answer = await chat(api, max_completion_tokens=2, max_tokens=5)
    assert answer.choices[0].message.content == "He"
    assert answer.choices[0].finish_reason == "length"
    assert worker.jobs[0].stopping.max_tokens == 2


async def test_without_a_limit_the_rest_of_the_context_is_given(api: Api, worker: ScriptedWorker) -> None:
    await chat(api)
    job = worker.jobs[0]
    assert job.stopping.max_tokens == CONTEXT - len(unpack_ids(job.prompt))
    assert job.header.cost_tokens == CONTEXT


async def test_logprobs_tell_tokens_bytes_and_candidates(api: Api) -> None:
    answer = await chat(api, logprobs=True, top_logprobs=2, max_tokens=1)
    [entry] = answer.choices[0].logprobs.content
    assert (entry.token, entry.logprob, entry.bytes) == ("H", -1.0, [72])
    assert [candidate.logprob for candidate in entry.top_logprobs] == [-0.5, -1.0]


async def test_logprobs_without_candidates(api: Api) -> None:
    answer = await chat(api, logprobs=True, max_tokens=2)
    assert [entry.token for entry in answer.choices[0].logprobs.content] == ["H", "e"]
    assert answer.choices[0].logprobs.content[0].top_logprobs == []


async def test_logprobs_are_streamed_with_their_tokens(api: Api) -> None:
    chunks = await chunks_of(api, logprobs=True, top_logprobs=1)
    tokens = [
        entry.token for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content
    ]
    assert "".join(tokens) == "Hello!"


async def test_tokens_can_be_written_as_ids(api: Api) -> None:
    answer = await chat(api, logprobs=True, top_logprobs=1, extra_body={"return_tokens_as_token_ids": True})
    [first, *_] = answer.choices[0].logprobs.content
    assert first.token == f"token_id:{ids_of('H')[0]}"
    assert first.bytes == [72]


async def test_prompt_logprobs_are_keyed_by_token_id(api: Api, worker: ScriptedWorker) -> None:
    answer = await chat(api, extra_body={"prompt_logprobs": 1})
    prompt = unpack_ids(worker.jobs[0].prompt)
    assert len(answer.prompt_logprobs) == len(prompt)
    assert answer.prompt_logprobs[0] is None
    taken = answer.prompt_logprobs[1][str(prompt[1])]
    assert taken == {"logprob": -1.0, "rank": 2, "decoded_token": worker.text_of(prompt[1:2])}


async def test_token_ids_come_along_when_asked_for(api: Api, worker: ScriptedWorker) -> None:
    answer = await chat(api, extra_body={"return_token_ids": True})
    assert answer.prompt_token_ids == unpack_ids(worker.jobs[0].prompt)
    assert answer.choices[0].token_ids == ids_of("Hello!")
    chunks = await raw_chunks(api, return_token_ids=True)
    assert chunks[0]["prompt_token_ids"] == answer.prompt_token_ids
    assert [token for chunk in chunks[1:] for token in chunk["choices"][0]["token_ids"]] == ids_of("Hello!")


async def test_the_prompt_is_what_the_template_makes_of_the_messages(api: Api, worker: ScriptedWorker) -> None:
    await chat(
        api,
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
        ],
        extra_body={"documents": [{"text": "paper"}], "chat_template_kwargs": {"shout": True}},
    )
    assert prompt_text(worker) == "<|system|>be brief\n<|user|>a\n<|document|>paper\n!!<|assistant|>"


async def test_special_tokens_are_added_only_on_demand(api: Api, worker: ScriptedWorker) -> None:
    await chat(api, extra_body={"add_special_tokens": True})
    assert prompt_text(worker).startswith(BOS)


async def test_a_final_message_is_continued_and_echoed(api: Api, worker: ScriptedWorker) -> None:
    fields = {"add_generation_prompt": False, "continue_final_message": True, "echo": True}
    messages = [*HI, {"role": "assistant", "content": "Well, "}]
    answer = await chat(api, messages=messages, extra_body=fields)
    assert answer.choices[0].message.content == "Well, Hello!"
    assert prompt_text(worker) == "<|user|>hi\n<|assistant|>Well, "
    chunks = await chunks_of(api, messages=messages, extra_body=fields)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "Well, Hello!"


async def test_a_reply_without_generation_prompt_has_the_last_role(api: Api) -> None:
    answer = await chat(api, extra_body={"add_generation_prompt": False})
    assert answer.choices[0].message.role == "user"


async def test_an_alias_is_served_and_echoed(api: Api) -> None:
    assert (await chat(api, model="small/alias")).model == "small/alias"


async def test_the_only_model_needs_no_name(api: Api) -> None:
    response = await api.http.post("/v1/chat/completions", json={"messages": HI})
    assert response.json()["model"] == "tiny"


async def test_unknown_fields_are_accepted_and_named(api: Api) -> None:
    body = {"messages": HI, "frobnicate": 1, "x\r\ny": 2, "stream_options": {"blink": True}, "stream": True}
    response = await api.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert response.headers["x-headrace-unknown-fields"] == "frobnicate, x%0D%0Ay, stream_options.blink"


async def test_known_fields_that_ask_for_nothing_are_accepted_silently(api: Api) -> None:
    body = {
        "messages": HI, "tools": None, "tool_choice": "none", "response_format": {"type": "text"}, "n": 1, "best_of": 1,
        "parallel_tool_calls": True, "user": "me", "store": False, "metadata": {"a": "b"}, "service_tier": "auto",
        "modalities": ["text"], "logit_bias": None, "stop": None, "seed": None, "use_beam_search": False,
        "length_penalty": 1.0, "guided_json": None, "logprobs": False, "top_logprobs": 0, "temperature": 1,
    }  # fmt: skip
    response = await api.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert "x-headrace-unknown-fields" not in response.headers


@pytest.mark.parametrize("name", ["x-request-id", "body"])
async def test_a_clients_id_leads_the_answers_id_and_the_queues(api: Api, worker: ScriptedWorker, name: str) -> None:
    headers = {"X-Request-Id": "my-id"} if name == "x-request-id" else {}
    body = {"messages": HI, "request_id": "my-id" if name == "body" else "loser"}
    answers = [await api.http.post("/v1/chat/completions", json=body, headers=headers) for _ in range(2)]
    first, second = (answer.json()["id"] for answer in answers)
    assert first.startswith("chatcmpl-my-id-")
    assert first != second
    assert f"chatcmpl-{worker.claims[0].request_id}" == first
    if name == "x-request-id":
        assert answers[0].headers["x-request-id"] == "my-id"


async def test_what_was_not_asked_for_is_null_in_whole_answers(api: Api) -> None:
    answer = await chat(api)
    assert (answer.prompt_token_ids, answer.prompt_logprobs, answer.choices[0].token_ids) == (None, None, None)
    completion = await api.sdk.completions.create(model="tiny", prompt="hi")
    [choice] = completion.choices
    assert (choice.token_ids, choice.prompt_token_ids, choice.prompt_logprobs) == (None, None, None)  # type: ignore[attr-defined]
    assert all("token_ids" not in chunk["choices"][0] for chunk in await raw_chunks(api))


async def test_a_request_id_of_any_characters_leads_the_answers_id(api: Api) -> None:
    response = await api.http.post("/v1/chat/completions", json={"messages": HI, "request_id": "run 3/5"})
    assert response.json()["id"].startswith("chatcmpl-run-3-5-")


async def test_whole_numbers_may_be_written_with_a_point(api: Api, worker: ScriptedWorker) -> None:
    body = {"messages": HI, "max_tokens": 3.0, "n": 2.0, "seed": 7.0, "top_k": 5.0}
    response = await api.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    job = worker.jobs[-1]
    assert (job.stopping.max_tokens, job.n, job.sampling.seed, job.sampling.top_k) == (3, 2, 7, 5)


async def test_a_stream_may_ask_for_no_logprobs_of_its_prompt(api: Api, worker: ScriptedWorker) -> None:
    assert len(await raw_chunks(api, prompt_logprobs=0)) == 7
    assert worker.jobs[-1].sampling.prompt_logprobs is None


async def test_priority_and_trace_context_travel_with_the_job(api: Api, worker: ScriptedWorker) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await api.http.post(
        "/v1/chat/completions",
        json={"messages": HI, "priority": -7},
        headers={"traceparent": trace, "tracestate": "a=b"},
    )
    header = worker.jobs[0].header
    assert (header.priority, header.traceparent, header.tracestate) == (-7, trace, "a=b")
