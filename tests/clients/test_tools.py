"""Tools and thoughts through every client: a call, its result, and the answer to it."""

import json
from collections.abc import Callable
from typing import Any

import langchain_openai
import litellm
import openai
import pytest
from anthropic import Anthropic
from fleet import ApiProcess
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from openai import pydantic_function_tool
from pydantic import BaseModel

CALL = '<tool_call>\n{"name": "Weather", "arguments": {"city": "Rome"}}\n</tool_call>'
ASK: list[Any] = [{"role": "user", "content": f"How is it? Say: Let me see.\n{CALL}"}]
THOUGHT: list[Any] = [{"role": "user", "content": "Say: <think>\nhm\n</think>\n\nFour."}]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")


class Weather(BaseModel):
    """Looks out of the window."""

    city: str


SCHEMA = Weather.model_json_schema()
TOOL: Any = {"type": "function", "function": {"name": "Weather", "description": "Looks.", "parameters": SCHEMA}}


@tool("Weather")
def weather(city: str) -> str:
    """Looks out of the window."""
    return f"sunny in {city}"


def answered(message: dict[str, Any]) -> list[Any]:
    """The conversation with the call and its result."""
    [call] = message["tool_calls"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    return [*ASK, message, result]


def test_the_openai_sdk_calls_and_goes_on(node: ApiProcess, parrot: str) -> None:
    chat = node.client().chat.completions
    whole = chat.create(model=parrot, messages=ASK, tools=[TOOL])
    [choice] = whole.choices
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content or "").strip() == "Let me see."
    with chat.stream(model=parrot, messages=ASK, tools=[pydantic_function_tool(Weather)]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        [final] = stream.get_final_completion().choices
    assert [(event.name, event.parsed_arguments) for event in done] == [("Weather", Weather(city="Rome"))]
    for message in (choice.message, final.message):
        [call] = message.tool_calls or []
        assert isinstance(call.function.arguments, str)  # type: ignore[union-attr]
        assert json.loads(call.function.arguments) == {"city": "Rome"}  # type: ignore[union-attr]
    conversation = answered(choice.message.model_dump(exclude_none=True))
    assert chat.create(model=parrot, messages=conversation, tools=[TOOL]).choices[0].message.content == "It is sunny."
    # Some programs send null where there was no text.
    conversation[1] = choice.message.model_dump() | {"content": None}
    assert chat.create(model=parrot, messages=conversation, tools=[TOOL]).choices[0].message.content == "It is sunny."


def test_the_openai_sdk_parses_calls(node: ApiProcess, parrot: str) -> None:
    parsed = node.client().chat.completions.parse(
        model=parrot, messages=ASK, tools=[pydantic_function_tool(Weather)], tool_choice="required"
    )
    [call] = parsed.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Rome")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": []}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"description": "no name"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nothing"}}}],
          "tool_choice": "required"}, "tools"),
    ],
)  # fmt: skip
def test_tools_that_make_no_sense_are_refused(
    node: ApiProcess, parrot: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        node.client().chat.completions.create(model=parrot, messages=ASK, **fields)
    assert (caught.value.param or "").startswith(param)


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_litellm_calls_and_goes_on(node: ApiProcess, parrot: str, provider: str) -> None:
    wish = {"model": f"{provider}/{parrot}", "api_base": f"{node.url}/v1", "api_key": "none", "tools": [TOOL]}
    whole = litellm.completion(messages=ASK, **wish)
    chunks = list(litellm.completion(messages=ASK, stream=True, **wish))
    rebuilt = litellm.stream_chunk_builder(chunks, messages=ASK)
    for answer in (whole, rebuilt):
        [call] = answer.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("Weather", {"city": "Rome"})
        assert answer.choices[0].finish_reason == "tool_calls"
    conversation = answered(whole.choices[0].message.model_dump(exclude_none=True))
    assert litellm.completion(messages=conversation, **wish).choices[0].message.content == "It is sunny."


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_litellm_reads_thoughts(node: ApiProcess, parrot: str, provider: str) -> None:
    wish = {"model": f"{provider}/{parrot}", "api_base": f"{node.url}/v1", "api_key": "none", "messages": THOUGHT}
    whole = litellm.completion(**wish).choices[0].message
    assert ((whole.reasoning_content or "").strip(), whole.content.strip()) == ("hm", "Four.")
    rebuilt = litellm.stream_chunk_builder(list(litellm.completion(stream=True, **wish)), messages=THOUGHT)
    message = rebuilt.choices[0].message
    assert (message.reasoning_content.strip(), message.content.strip()) == ("hm", "Four.")


def test_langchain_binds_tools_and_goes_on(node: ApiProcess, parrot: str) -> None:
    chat = langchain_openai.ChatOpenAI(model=parrot, base_url=f"{node.url}/v1", api_key="none", max_retries=0)
    bound = chat.bind_tools([weather])
    asked = HumanMessage(ASK[0]["content"])
    whole = bound.invoke([asked])
    streamed: AIMessageChunk = AIMessageChunk("")
    for chunk in bound.stream([asked]):
        streamed += chunk  # type: ignore[assignment]
    for answer in (whole, streamed):
        [call] = answer.tool_calls
        assert (call["name"], call["args"]) == ("Weather", {"city": "Rome"})
    result = weather.invoke(whole.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert bound.invoke([asked, whole, result]).content == "It is sunny in Rome."


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_langchain_gets_objects(node: ApiProcess, parrot: str, method: str) -> None:
    said = {"function_calling": CALL, "json_schema": '{"city": "Rome"}'}[method]
    chat = langchain_openai.ChatOpenAI(model=parrot, base_url=f"{node.url}/v1", api_key="none", max_retries=0)
    model = chat.with_structured_output(Weather, method=method)
    assert model.invoke(f"Say: {said}") == Weather(city="Rome")


def test_the_anthropic_sdk_calls_and_goes_on(node: ApiProcess, parrot: str) -> None:
    client = Anthropic(base_url=node.url, api_key="none", max_retries=0)
    wish: Any = {
        "model": parrot,
        "max_tokens": 300,
        "tools": [{"name": "Weather", "description": "Looks.", "input_schema": SCHEMA}],
    }
    whole = client.messages.create(messages=ASK, **wish)
    with client.messages.stream(messages=ASK, **wish) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert kinds >= {"message_start", "content_block_start", "text", "input_json", "content_block_stop", "message_stop"}
    for message in (whole, final):
        assert message.stop_reason == "tool_use"
        text, call = message.content
        assert (text.type, call.type) == ("text", "tool_use")
        assert (call.name, call.input) == ("Weather", {"city": "Rome"})  # type: ignore[union-attr]
    result = {"type": "tool_result", "tool_use_id": whole.content[1].id, "content": "sunny"}  # type: ignore[union-attr]
    turns: Any = [*ASK, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    [block] = client.messages.create(messages=turns, **wish).content
    assert block.text == "It is sunny."  # type: ignore[union-attr]
    counted = client.messages.count_tokens(model=parrot, messages=ASK, tools=wish["tools"])
    assert counted.input_tokens == whole.usage.input_tokens


def test_the_anthropic_sdk_reads_thoughts(node: ApiProcess, parrot: str) -> None:
    client = Anthropic(base_url=node.url, api_key="none", max_retries=0)
    wish: Any = {
        "model": parrot,
        "max_tokens": 2000,
        "messages": THOUGHT,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    whole = client.messages.create(**wish)
    with client.messages.stream(**wish) as stream:
        final = stream.get_final_message()
    for message in (whole, final):
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.content[0].thinking.strip() == "hm"  # type: ignore[union-attr]
        assert message.content[1].text.strip() == "Four."  # type: ignore[union-attr]


@pytest.mark.parametrize("ask", [litellm.completion])
def test_litellm_speaks_anthropics_api_too(node: ApiProcess, parrot: str, ask: Callable[..., Any]) -> None:
    wish = {"model": f"anthropic/{parrot}", "api_base": node.url, "api_key": "none", "max_tokens": 300}
    [call] = ask(messages=ASK, tools=[TOOL], **wish).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("Weather", {"city": "Rome"})
    chunks = list(ask(messages=[{"role": "user", "content": "Say: hi"}], stream=True, **wish))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hi"
