"""Thoughts and calls of tools in the APIs that tell answers as blocks: /v1/messages and /v1/responses."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from live_api import Api, running_api
from openai import pydantic_function_tool
from openai.types.responses import Response
from pydantic import BaseModel
from scripted_worker import ScriptedWorker, running_worker, saying

from headrace_shared.protocol.codec import unpack_ids

SHOWN = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.reasoning_content %}({{ message.reasoning_content }}){% endif %}{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}!{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "{% endfor %}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% if tools %}|{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SAID = (
    "<think>Hm, Rome.</think>Let me see.\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CARD: dict[str, Any] = {
    "tool_parser": "hermes",
    "reasoning_parser": "qwen3",
    "template": SHOWN,
    "grammar_backends": ("xgrammar", "guidance"),
    "max_model_len": 4096,
}
CLAUDES: list[Any] = [
    {"name": "weather", "description": "Looks.", "input_schema": CITY},
    {"name": "time", "input_schema": {"type": "object"}},
]
OPENAIS: list[Any] = [
    {"type": "function", "name": "weather", "description": "Looks.", "parameters": CITY},
    {"type": "function", "name": "time"},
]


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    async with running_worker(valkey_url, script=saying(SAID), **CARD) as worker:
        yield worker


@pytest.fixture
async def claude(api: Api) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=api.base_url, api_key="none", max_retries=0) as client:
        yield client


def prompt_of(worker: ScriptedWorker) -> str:
    return worker.text_of(unpack_ids(worker.jobs[-1].prompt))


def message(**fields: Any) -> dict[str, Any]:
    asked = {"model": "tiny", "max_tokens": 400, "messages": [{"role": "user", "content": "hi"}], "tools": CLAUDES}
    return asked | fields


async def test_a_message_has_thoughts_words_and_calls_in_their_order(
    claude: anthropic.AsyncAnthropic, worker: ScriptedWorker
) -> None:
    whole = await claude.messages.create(**message())
    thoughts, words, weather, clock = whole.content
    assert (thoughts.type, thoughts.thinking) == ("thinking", "Hm, Rome.")  # type: ignore[union-attr]
    assert (words.type, words.text.strip()) == ("text", "Let me see.")  # type: ignore[union-attr]
    assert (weather.type, weather.name, weather.input) == ("tool_use", "weather", {"city": "Rome"})  # type: ignore[union-attr]
    assert (clock.name, clock.input) == ("time", {})  # type: ignore[union-attr]
    assert weather.id.startswith("toolu_")  # type: ignore[union-attr]
    assert weather.id != clock.id  # type: ignore[union-attr]
    assert whole.stop_reason == "tool_use"
    assert whole.usage.output_tokens_details is not None
    assert whole.usage.output_tokens_details.thinking_tokens == len("<think>Hm, Rome.</think>")
    assert '"name": "weather"' in prompt_of(worker)

    async with claude.messages.stream(**message()) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_message()
    assert {"thinking", "signature", "text", "input_json"} <= kinds
    told, told_again = (
        each.model_dump(exclude={"id": True, "content": {"__all__": {"id"}}}) for each in (whole, final)
    )
    assert told_again == told


async def test_a_message_goes_back_with_its_results(claude: anthropic.AsyncAnthropic, worker: ScriptedWorker) -> None:
    whole = await claude.messages.create(**message())
    calls = [block for block in whole.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": f"for {call.name}"} for call in calls]
    talk = [{"role": "user", "content": "hi"}, whole.to_param(), {"role": "user", "content": results}]
    await claude.messages.create(**message(messages=talk))
    shown = prompt_of(worker).partition("|[")[0]
    assert shown.startswith("<|user|>hi<|assistant|>(Hm, Rome.)Let me see.")
    assert shown.endswith('!weather{"city": "Rome"}!time{}<|tool|>for weather<|tool|>for time')


async def test_a_message_may_have_to_do_without_thoughts_or_with_one_call(
    claude: anthropic.AsyncAnthropic, worker: ScriptedWorker
) -> None:
    one = message(tool_choice={"type": "auto", "disable_parallel_tool_use": True}, thinking={"type": "disabled"})
    whole = await claude.messages.create(**one)
    assert [block.type for block in whole.content] == ["text", "tool_use"]
    assert "<think></think>" in prompt_of(worker)
    await claude.messages.create(**message(thinking={"type": "enabled", "budget_tokens": 30}))
    thinking = worker.jobs[-1].sampling.thinking
    assert thinking is not None
    assert thinking.budget_tokens == 30
    none = await claude.messages.create(**message(tool_choice={"type": "none"}))
    assert none.stop_reason == "end_turn"
    assert "tool_use" not in [block.type for block in none.content]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_a_message_can_be_made_to_call(valkey_url: str, choice: dict[str, str]) -> None:
    said = '{"city": "Rome"}' if choice["type"] == "tool" else '[{"name": "weather", "parameters": {"city": "Rome"}}]'
    card = CARD | {"reasoning_parser": None, "tool_parser": None}
    async with (
        running_worker(valkey_url, script=saying(said), **card) as worker,
        running_api(valkey_url) as api,
        anthropic.AsyncAnthropic(base_url=api.base_url, api_key="none", max_retries=0) as claude,
    ):
        whole = await claude.messages.create(**message(tool_choice=choice))
        assert [(block.name, block.input) for block in whole.content] == [("weather", {"city": "Rome"})]  # type: ignore[union-attr]
        assert whole.stop_reason == "tool_use"
        assert worker.jobs[0].sampling.grammar is not None


async def test_counting_tokens_counts_tools(claude: anthropic.AsyncAnthropic) -> None:
    asked = message()
    whole = await claude.messages.create(**asked)
    asked.pop("max_tokens")
    assert (await claude.messages.count_tokens(**asked)).input_tokens == whole.usage.input_tokens


async def test_what_is_wrong_with_a_tool_is_told_in_the_words_of_its_api(api: Api) -> None:
    twice = message(tools=[CLAUDES[0], CLAUDES[0]])
    response = await api.http.post("/v1/messages", json=twice)
    assert "tools[1].name:" in response.json()["error"]["message"]
    body = {"input": "hi", "tools": [OPENAIS[0], OPENAIS[0]]}
    response = await api.http.post("/v1/responses", json=body)
    assert response.json()["error"]["param"] == "tools[1].name"
    strict = message(tools=[CLAUDES[0] | {"strict": True, "input_schema": {"type": "object", "properties": 3}}])
    response = await api.http.post("/v1/messages", json=strict)
    assert response.status_code == 400
    assert "tools[0].input_schema" in response.json()["error"]["message"]


def exact(response: Response) -> None:
    Response.model_validate_json(response.model_dump_json(by_alias=True, exclude_unset=True), strict=True)


async def test_a_response_has_items_in_their_order(api: Api, worker: ScriptedWorker) -> None:
    response = await api.sdk.responses.create(model="tiny", input="hi", tools=OPENAIS)
    exact(response)
    thoughts, words, weather, clock = response.output
    assert (thoughts.type, thoughts.content[0].text) == ("reasoning", "Hm, Rome.")  # type: ignore[union-attr]
    assert (words.type, words.content[0].text.strip()) == ("message", "Let me see.")  # type: ignore[union-attr]
    assert (weather.type, weather.name, json.loads(weather.arguments)) == ("function_call", "weather", {"city": "Rome"})  # type: ignore[union-attr]
    assert (clock.name, clock.arguments) == ("time", "{}")  # type: ignore[union-attr]
    assert weather.call_id.startswith("call_")  # type: ignore[union-attr]
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == len("<think>Hm, Rome.</think>")
    assert [tool.name for tool in response.tools] == ["weather", "time"]  # type: ignore[union-attr]

    async with api.sdk.responses.stream(model="tiny", input="hi", tools=OPENAIS) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == [item.type for item in response.output]
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "Hm, Rome."
    assert [event.sequence_number for event in events] == sorted(event.sequence_number for event in events)

    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": item.call_id, "output": f"for {item.name}"}
        for item in (weather, clock)
    ]
    for history in (
        {"previous_response_id": response.id, "input": outputs},
        {"input": [{"role": "user", "content": "hi"}, *response.output, *outputs]},
    ):
        await api.sdk.responses.create(model="tiny", tools=OPENAIS, **history)  # type: ignore[call-overload]
        shown = prompt_of(worker).partition("|[")[0]
        assert shown.startswith("<|user|>hi<|assistant|>(Hm, Rome.)Let me see.")
        assert shown.endswith('!weather{"city": "Rome"}!time{}<|tool|>for weather<|tool|>for time')


async def test_every_kind_of_event_resumes_with_the_same_bytes(api: Api, valkey_url: str) -> None:
    async with running_api(valkey_url) as other:
        for path, body in (
            ("/v1/responses", {"input": "hi", "tools": OPENAIS}),
            ("/v1/messages", message()),
        ):
            response = await api.http.post(path, json=body | {"stream": True})
            request_id = response.headers["x-headrace-request-id"]
            blocks = response.text.split("\n\n")
            for position in range(0, len(blocks), 7):
                rest = await other.http.get(f"/v1/requests/{request_id}/stream?starting_after={position}")
                assert rest.text.split("\n\n") == blocks[position:]


async def test_a_response_obeys_the_choice_of_tools(api: Api, worker: ScriptedWorker) -> None:
    only: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "time"}]}
    response = await api.sdk.responses.create(model="tiny", input="hi", tools=OPENAIS, tool_choice=only)
    exact(response)
    assert '"weather"' not in prompt_of(worker)
    one = await api.sdk.responses.create(model="tiny", input="hi", tools=OPENAIS, parallel_tool_calls=False)
    assert [item.type for item in one.output].count("function_call") == 1
    none = await api.sdk.responses.create(model="tiny", input="hi", tools=OPENAIS, tool_choice="none")
    assert "function_call" not in [item.type for item in none.output]
    effort: Any = {"effort": "none"}
    await api.sdk.responses.create(model="tiny", input="hi", reasoning=effort)
    assert "<think></think>" in prompt_of(worker)


class Weather(BaseModel):
    city: str


async def test_arguments_are_parsed_by_the_sdk(api: Api) -> None:
    tool: Any = pydantic_function_tool(Weather, name="weather")
    flat = {"type": "function", **tool["function"]}
    response = await api.sdk.responses.parse(model="tiny", input="hi", tools=[flat])
    assert json.loads(response.output[2].arguments) == {"city": "Rome"}  # type: ignore[union-attr]
