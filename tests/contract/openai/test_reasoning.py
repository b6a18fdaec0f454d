"""Models that think before they answer: what clients see of it, and what they can ask for."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from live_api import Api, data_lines, running_api
from scripted_worker import TEMPLATE, ScriptedWorker, ids_of, running_worker, saying

from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.sampling import ThinkingSpec

HI: Any = [{"role": "user", "content": "hi"}]
THOUGHT, ANSWER = "<think>Let me see.</think>", "It is 4."
SWITCHED = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    card = {"reasoning_parser": "qwen3", "template": SWITCHED, "grammar_backends": ("xgrammar", "guidance")}
    async with running_worker(valkey_url, script=saying(THOUGHT + ANSWER), **card) as worker:
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    async with running_api(valkey_url) as api:
        yield api


async def asked(api: Api, **fields: Any) -> Any:
    response = await api.http.post("/v1/chat/completions", json={"messages": HI} | fields)
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(api: Api, **fields: Any) -> list[Any]:
    body = {"messages": HI, "stream": True} | fields
    response = await api.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in list(data_lines(response.text))[:-1]]


def joined(chunks: list[Any], name: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(name, "") for chunk in chunks if chunk["choices"])


def prompt_text(worker: ScriptedWorker) -> str:
    return worker.text_of(unpack_ids(worker.jobs[-1].prompt))


async def test_thoughts_are_told_apart_under_both_names(api: Api) -> None:
    answer = await asked(api)
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": ANSWER,
        "refusal": None,
        "reasoning": "Let me see.",
        "reasoning_content": "Let me see.",
    }
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": len(THOUGHT)}


async def test_a_stream_tells_thoughts_and_then_the_answer(api: Api) -> None:
    chunks = await streamed(api, stream_options={"include_usage": True})
    assert joined(chunks, "reasoning") == joined(chunks, "reasoning_content") == "Let me see."
    assert joined(chunks, "content") == ANSWER
    kinds = [next(iter(chunk["choices"][0]["delta"])) for chunk in chunks[1:-1]]
    assert kinds == ["reasoning"] * len("Let me see.") + ["content"] * len(ANSWER)
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": len(THOUGHT)}


async def test_the_sdk_reads_both(api: Api) -> None:
    answer = await api.sdk.chat.completions.create(model="tiny", messages=HI)
    assert (answer.choices[0].message.reasoning_content, answer.choices[0].message.content) == ("Let me see.", ANSWER)  # type: ignore[attr-defined]
    async with api.sdk.chat.completions.stream(model="tiny", messages=HI) as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_completion()).choices[0].message.content == ANSWER


async def test_thoughts_can_be_left_out_with_all_that_belongs_to_them(api: Api) -> None:
    fields = {"include_reasoning": False, "logprobs": True, "return_token_ids": True}
    answer = await asked(api, **fields)
    [choice] = answer["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": ANSWER,
        "refusal": None,
        "reasoning": None,
        "reasoning_content": None,
    }
    assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == ANSWER
    assert len(choice["token_ids"]) == len(ANSWER)
    assert answer["usage"]["completion_tokens"] == len(THOUGHT + ANSWER)
    chunks = await streamed(api, **fields)
    assert joined(chunks, "reasoning") == ""
    assert joined(chunks, "content") == ANSWER
    told = [entry["token"] for chunk in chunks[1:] for entry in chunk["choices"][0]["logprobs"]["content"]]
    assert "".join(told) == ANSWER
    assert len(chunks) == 1 + len(ANSWER)


async def test_logprobs_stay_with_their_tokens(api: Api) -> None:
    chunks = await streamed(api, logprobs=True)
    told = [entry["token"] for chunk in chunks[1:] for entry in chunk["choices"][0]["logprobs"]["content"]]
    assert "".join(told) == THOUGHT + ANSWER
    assert len(chunks) == 1 + len(THOUGHT + ANSWER)


async def test_an_answer_that_ends_in_thought_has_no_content(api: Api) -> None:
    answer = await asked(api, max_tokens=12)
    [choice] = answer["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning"]) == (None, "Let m")
    assert choice["finish_reason"] == "length"
    hidden = await asked(api, max_tokens=12, include_reasoning=False)
    assert hidden["choices"][0]["message"]["content"] is None


async def test_an_answer_without_thoughts_is_content_alone(valkey_url: str) -> None:
    async with (
        running_worker(valkey_url, script=saying(ANSWER), reasoning_parser="qwen3"),
        running_api(valkey_url) as api,
    ):
        answer = await asked(api)
        message = answer["choices"][0]["message"]
        assert (message["content"], message["reasoning"]) == (ANSWER, None)
        assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_a_model_that_is_not_known_to_think_has_no_such_fields(valkey_url: str) -> None:
    async with running_worker(valkey_url, script=saying(THOUGHT + ANSWER)), running_api(valkey_url) as api:
        answer = await asked(api)
        assert answer["choices"][0]["message"] == {"role": "assistant", "content": THOUGHT + ANSWER, "refusal": None}
        assert "completion_tokens_details" not in answer["usage"]
        error = (await api.http.post("/v1/chat/completions", json={"messages": HI, "thinking_token_budget": 5})).json()
        assert error["error"]["param"] == "thinking_token_budget"
        assert "is not known to think" in error["error"]["message"]


async def test_the_template_decides_whether_the_model_thinks(api: Api, worker: ScriptedWorker) -> None:
    await asked(api, chat_template_kwargs={"enable_thinking": False})
    assert prompt_text(worker).endswith("<|assistant|><think></think>")
    # The prompt has closed the thinking, so a later marker is text.
    answer = await asked(api, reasoning_effort="none")
    assert prompt_text(worker).endswith("<|assistant|><think></think>")
    assert answer["choices"][0]["message"]["content"] == THOUGHT + ANSWER
    await asked(api, reasoning_effort="high")
    assert prompt_text(worker).endswith("<|assistant|>")
    await asked(api, reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})
    assert prompt_text(worker).endswith("<|assistant|><think></think>")


async def test_an_effort_reaches_the_template_by_the_name_it_has_there(valkey_url: str) -> None:
    card = {"template": TEMPLATE + "effort={{ reasoning_effort }},{{ mood }}", "reasoning_efforts": {"xhigh": "high"}}
    card |= {"chat_template_kwargs": {"mood": "good", "reasoning_effort": "medium"}}
    async with running_worker(valkey_url, **card) as worker, running_api(valkey_url) as api:
        for fields, effort in (
            ({"reasoning_effort": "low"}, "low,good"),
            ({"reasoning_effort": "xhigh"}, "high,good"),
            ({}, "medium,good"),
            (
                {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "top", "mood": "bad"}},
                "top,bad",
            ),
        ):
            await asked(api, **fields)
            assert prompt_text(worker).endswith(f"effort={effort}")
        tokens = (await api.http.post("/tokenize", json={"messages": HI, "reasoning_effort": "low"})).json()["tokens"]
        assert worker.text_of(tokens).endswith("effort=low,good")


async def test_earlier_thoughts_are_known_to_the_template_by_both_names(valkey_url: str) -> None:
    template = "{% for m in messages %}[{{ m.reasoning }}|{{ m.reasoning_content }}]{% endfor %}"
    async with running_worker(valkey_url, template=template) as worker, running_api(valkey_url) as api:
        for fields, shown in (
            ({"reasoning": "a"}, "[a|a]"),
            ({"reasoning_content": "b"}, "[b|b]"),
            ({"reasoning": "a", "reasoning_content": "b"}, "[a|a]"),
            ({"reasoning": None, "reasoning_content": "b"}, "[b|b]"),
            ({}, "[|]"),
        ):
            await asked(api, messages=[{"role": "assistant", "content": "4"} | fields])
            assert prompt_text(worker) == shown


async def test_a_thinking_budget_is_handed_to_the_worker(api: Api, worker: ScriptedWorker) -> None:
    await asked(api, thinking_token_budget=7)
    assert worker.jobs[-1].sampling.thinking == ThinkingSpec(
        budget_tokens=7,
        end_ids=tuple(ids_of("</think>")),
        ends=("</think>", "<tool_call>\n<function="),
        starts=("<think>",),
        opened=False,
    )
    for fields in ({"thinking_token_budget": -1}, {}, {"thinking_token_budget": 7, "reasoning_effort": "none"}):
        await asked(api, **fields)
        assert worker.jobs[-1].sampling.thinking is None


async def test_a_grammar_waits_for_the_end_of_the_thoughts(api: Api, worker: ScriptedWorker) -> None:
    await asked(api, guided_regex="[0-9]")
    grammar = worker.jobs[-1].sampling.grammar
    assert grammar is not None
    assert (grammar.after, grammar.unless_begun) == ("</think>", ("<think>",))
    await asked(api, guided_regex="[0-9]", reasoning_effort="none")
    grammar = worker.jobs[-1].sampling.grammar
    assert grammar is not None
    assert (grammar.after, grammar.unless_begun) == (None, ())


async def test_a_thought_that_the_client_began_is_gone_on_with(api: Api) -> None:
    messages = [*HI, {"role": "assistant", "content": "<think>Hm. "}]
    answer = await asked(api, messages=messages, continue_final_message=True, add_generation_prompt=False)
    message = answer["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("<think>Let me see.", ANSWER)
