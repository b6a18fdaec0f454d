"""POST /v1/completions: what clients see, through the SDK and as bytes."""

import json
from typing import Any

import pytest
from live_api import Api, data_lines
from scripted_worker import BOS, ScriptedWorker, ids_of

from headrace_shared.protocol.codec import unpack_ids


async def complete(api: Api, **fields: Any) -> Any:
    return await api.sdk.completions.create(**({"model": "tiny", "prompt": "ab"} | fields))


async def raw_chunks(api: Api, **fields: Any) -> list[Any]:
    response = await api.http.post("/v1/completions", json={"model": "tiny", "prompt": "ab", "stream": True} | fields)
    assert response.status_code == 200, response.text
    *payloads, last = data_lines(response.text)
    assert last == "[DONE]"
    return [json.loads(payload) for payload in payloads]


async def test_an_answer_comes_whole(api: Api, worker: ScriptedWorker) -> None:
    answer = await complete(api)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == ("Hello!", "stop", None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 6, 9)
    assert worker.text_of(unpack_ids(worker.jobs[0].prompt)) == f"{BOS}ab"


async def test_a_stream_has_no_opening_chunk(api: Api) -> None:
    chunks = await raw_chunks(api, max_tokens=2)
    head = {key: chunks[0][key] for key in ("id", "object", "created", "model", "system_fingerprint")}
    assert head["object"] == "text_completion"
    assert [chunk.pop("choices") for chunk in chunks] == [
        [{"index": 0, "text": "H", "logprobs": None, "finish_reason": None}],
        [{"index": 0, "text": "e", "logprobs": None, "finish_reason": "length", "stop_reason": None}],
    ]
    assert all(chunk == head for chunk in chunks)


async def test_sixteen_tokens_are_the_default_also_for_null(api: Api, worker: ScriptedWorker) -> None:
    await complete(api)
    await complete(api, max_tokens=None)
    assert [job.stopping.max_tokens for job in worker.jobs] == [16, 16]


async def test_several_prompts_are_numbered_through_with_their_choices(api: Api, worker: ScriptedWorker) -> None:
    answer = await complete(api, prompt=["a", "bcd"], n=2, max_tokens=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == 2 + 4
    assert answer.usage.completion_tokens == 4
    ids = sorted(job.header.request_id for job in worker.jobs)
    assert [f"cmpl-{request_id}" for request_id in ids] == [f"{answer.id}-0", f"{answer.id}-1"]


async def test_several_prompts_stream_side_by_side(api: Api) -> None:
    chunks = await raw_chunks(api, prompt=["a", "b"], echo=True, stream_options={"include_usage": True})
    *chunks, last = chunks
    text = ["", ""]
    for chunk in chunks:
        [choice] = chunk["choices"]
        text[choice["index"]] += choice["text"]
    assert text == ["aHello!", "bHello!"]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "total_tokens": 16, "completion_tokens": 12}


async def test_token_ids_are_taken_as_they_are(api: Api, worker: ScriptedWorker) -> None:
    await complete(api, prompt=[1, 2, 3])
    await complete(api, prompt=[[4], [5, 6]])
    assert sorted(unpack_ids(job.prompt) for job in worker.jobs) == [[1, 2, 3], [4], [5, 6]]


async def test_special_tokens_can_be_left_out(api: Api, worker: ScriptedWorker) -> None:
    await complete(api, extra_body={"add_special_tokens": False})
    assert unpack_ids(worker.jobs[0].prompt) == ids_of("ab")


async def test_echo_puts_the_prompt_first(api: Api) -> None:
    assert (await complete(api, echo=True, max_tokens=1)).choices[0].text == "abH"
    assert (await complete(api, echo=True, max_tokens=1, prompt=ids_of("xy"))).choices[0].text == "xyH"
    chunks = await raw_chunks(api, echo=True)
    assert chunks[0]["choices"][0]["text"] == "abH"


@pytest.mark.parametrize("options", [{}, {"add_special_tokens": False}])
async def test_special_tokens_that_a_prompt_shows_are_echoed_and_counted(api: Api, options: dict[str, Any]) -> None:
    for prompt, shown in ((f"a{BOS}b", f"a{BOS}b"), (f"{BOS}a", f"{BOS}a"), ([256, 256, *ids_of("a")], f"{BOS}{BOS}a")):
        answer = await complete(api, prompt=prompt, echo=True, max_tokens=1, logprobs=0, extra_body=options)
        [choice] = answer.choices
        assert choice.text == f"{shown}H"
        found = zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)
        # One that the server has put before the text is nowhere in it.
        seen = [choice.text[offset:].startswith(token) for token, offset in found]
        added = isinstance(prompt, str) and not options
        assert seen.count(False) == (added and not prompt.startswith(BOS))
        assert choice.logprobs.text_offset[-1] == len(shown)


async def test_only_the_last_event_tells_the_usage_the_others_null(api: Api) -> None:
    *chunks, last = await raw_chunks(api, stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["usage"]["completion_tokens"] == 6
    assert all("usage" not in chunk for chunk in await raw_chunks(api))


async def test_a_prompt_can_be_scored_without_generating(api: Api, worker: ScriptedWorker) -> None:
    answer = await complete(api, prompt="aé", echo=True, max_tokens=0, logprobs=1)
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason) == ("aé", "length")
    assert choice.logprobs.tokens == [BOS, "a", "\ufffd", "\ufffd"]
    assert choice.logprobs.token_logprobs == [None, -1.0, -1.0, -1.0]
    assert choice.logprobs.text_offset == [0, 0, 1, 1]
    assert choice.logprobs.top_logprobs[0] is None
    assert worker.jobs[0].stopping.max_tokens == 0
    assert worker.jobs[0].sampling.prompt_logprobs == 1
    assert answer.usage.completion_tokens == 0


async def test_logprobs_count_characters_through_the_whole_text(api: Api) -> None:
    whole = await complete(api, logprobs=2, echo=True, max_tokens=3)
    lists = whole.choices[0].logprobs
    assert lists.tokens == [BOS, "a", "b", "H", "e", "l"]
    assert lists.text_offset == [0, 0, 1, 2, 3, 4]
    chunks = await raw_chunks(api, logprobs=2, echo=True, max_tokens=3)
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [offset for part in streamed for offset in part["text_offset"]] == lists.text_offset
    assert [token for part in streamed for token in part["tokens"]] == lists.tokens


async def test_top_logprobs_hold_the_taken_token_in_any_case(api: Api) -> None:
    answer = await complete(api, logprobs=1, max_tokens=1)
    [top] = answer.choices[0].logprobs.top_logprobs
    assert top["H"] == -1.0
    assert len(top) == 2
    none = await complete(api, logprobs=0, max_tokens=1)
    assert none.choices[0].logprobs.top_logprobs == [{"H": -1.0}]


async def test_prompt_logprobs_sit_in_the_choice(api: Api) -> None:
    answer = await complete(api, extra_body={"prompt_logprobs": 0}, max_tokens=1)
    first, *rest = answer.choices[0].prompt_logprobs
    assert first is None
    assert [len(position) for position in rest] == [1, 1]


async def test_text_beyond_ascii_arrives_unharmed(api: Api, worker: ScriptedWorker) -> None:
    answer = await complete(api, prompt="naïve 😀 \u2028", echo=True, max_tokens=1)
    assert answer.choices[0].text == "naïve 😀 \u2028H"
