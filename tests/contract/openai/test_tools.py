"""Tools over HTTP: what the model is shown, what it is held to, and how its calls are told."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import openai
import pytest
from eventually import eventually
from live_api import Api, data_lines, running_api, sse_events
from pydantic import BaseModel
from scripted_worker import TEMPLATE, ScriptedWorker, running_worker, say, saying

from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import Event
from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind
from headrace_shared.queue.claims import Claim

CHAT = "/v1/chat/completions"
HI: Any = [{"role": "user", "content": "hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "Looks.", "parameters": CITY}}
TIME: Any = {"type": "function", "function": {"name": "time"}}
SHOWN = TEMPLATE + "{% if tools %}|{{ tools | tojson }}{% endif %}"
TWO = (
    'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)
BACKENDS = ("xgrammar", "guidance")


def named(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


def worker_that_says(url: str, text: str, **card: Any) -> Any:
    card = {"tool_parser": "hermes", "template": SHOWN, "grammar_backends": BACKENDS, "max_model_len": 4096} | card
    return running_worker(url, script=saying(text), **card)


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    async with worker_that_says(valkey_url, TWO) as worker:
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    async with running_api(valkey_url) as api:
        yield api


async def answer_of(api: Api, **fields: Any) -> Any:
    response = await api.http.post(CHAT, json={"messages": HI, "tools": [WEATHER, TIME]} | fields)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


async def chunks_of(api: Api, **fields: Any) -> list[Any]:
    body = {"messages": HI, "tools": [WEATHER, TIME], "stream": True} | fields
    response = await api.http.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return [json.loads(line)["choices"][0] for line in list(data_lines(response.text))[:-1]]


async def refusal(api: Api, **fields: Any) -> Any:
    response = await api.http.post(CHAT, json={"messages": HI, "tools": [WEATHER, TIME]} | fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def collected(chunks: list[Any]) -> tuple[str, list[Any]]:
    """The content and the calls of a stream, put together as clients do."""
    content, calls = "", {}
    for chunk in chunks:
        content += chunk["delta"].get("content") or ""
        for fragment in chunk["delta"].get("tool_calls", []):
            index, function = fragment["index"], fragment["function"]
            if index in calls:
                assert fragment.keys() == {"index", "function"}
                assert function.keys() == {"arguments"}
                calls[index]["function"]["arguments"] += function["arguments"]
            else:
                assert fragment["type"] == "function"
                calls[index] = {"id": fragment["id"], "type": "function", "function": dict(function)}
    return content, list(calls.values())


def prompt_text(worker: ScriptedWorker) -> str:
    return worker.text_of(unpack_ids(worker.jobs[-1].prompt))


def described(worker: ScriptedWorker) -> list[str]:
    """Names of the tools that the model was shown."""
    _, _, tools = prompt_text(worker).partition("|[")
    return [tool["function"]["name"] for tool in json.loads("[" + tools)] if tools else []


async def test_calls_are_told_apart_from_content(api: Api, worker: ScriptedWorker) -> None:
    choice = await answer_of(api)
    message = choice["message"]
    assert message["content"].strip() == "Let me see."
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city": "Rome"}'},
        {"name": "time", "arguments": "{}"},
    ]
    assert {call["type"] for call in message["tool_calls"]} == {"function"}
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert all(call["id"].startswith("chatcmpl-tool-") for call in message["tool_calls"])
    assert choice["finish_reason"] == "tool_calls"
    assert described(worker) == ["weather", "time"]


async def test_a_stream_tells_the_same_in_fragments(api: Api) -> None:
    chunks = await chunks_of(api)
    content, calls = collected(chunks)
    message = (await answer_of(api))["message"]
    assert content.strip() == message["content"].strip() == "Let me see."
    assert [call["function"] for call in calls] == [call["function"] for call in message["tool_calls"]]
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["tool_calls"]
    assert len([chunk for chunk in chunks if chunk["delta"].get("tool_calls")]) > 5


async def test_an_answer_of_calls_alone_has_no_content(valkey_url: str) -> None:
    async with worker_that_says(valkey_url, TWO.partition("\n")[2]), running_api(valkey_url) as api:
        assert (await answer_of(api))["message"]["content"] is None
        content, calls = collected(await chunks_of(api))
        assert (content, len(calls)) == ("", 2)


async def test_what_only_looks_like_a_call_is_content(valkey_url: str) -> None:
    text = "<tool_call>nothing</tool_call>"
    async with worker_that_says(valkey_url, text), running_api(valkey_url) as api:
        choice = await answer_of(api)
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
        assert "tool_calls" not in choice["message"]
        assert collected(await chunks_of(api)) == (text, [])


async def test_a_call_that_is_cut_off_ends_with_length(api: Api) -> None:
    cut = len(TWO.partition("Rome")[0]) + 2
    choice = await answer_of(api, max_tokens=cut)
    [call] = choice["message"]["tool_calls"]
    assert (call["function"]["arguments"], choice["finish_reason"]) == ('{"city": "Ro', "length")
    chunks = await chunks_of(api, max_tokens=cut)
    assert collected(chunks)[1][0]["function"]["arguments"] == '{"city": "Ro'
    assert chunks[-1]["finish_reason"] == "length"


async def test_every_choice_has_calls_of_its_own(api: Api) -> None:
    response = await api.http.post(CHAT, json={"messages": HI, "tools": [WEATHER, TIME], "n": 3})
    ids = [call["id"] for choice in response.json()["choices"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 6


async def test_one_call_at_a_time(api: Api) -> None:
    choice = await answer_of(api, parallel_tool_calls=False)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]
    _, calls = collected(await chunks_of(api, parallel_tool_calls=False))
    assert [call["function"]["name"] for call in calls] == ["weather"]


async def test_none_shows_no_tools_and_looks_for_no_calls(api: Api, worker: ScriptedWorker) -> None:
    choice = await answer_of(api, tool_choice="none")
    assert (choice["message"]["content"], choice["finish_reason"]) == (TWO, "stop")
    assert described(worker) == []


async def test_a_server_may_keep_showing_tools_and_then_drops_the_calls(valkey_url: str) -> None:
    async with worker_that_says(valkey_url, TWO, keeps_unused_tools=True) as worker, running_api(valkey_url) as api:
        choice = await answer_of(api, tool_choice="none")
        assert (choice["message"]["content"].strip(), choice["finish_reason"]) == ("Let me see.", "stop")
        assert "tool_calls" not in choice["message"]
        assert described(worker) == ["weather", "time"]
        assert collected(await chunks_of(api, tool_choice="none"))[1] == []


async def test_auto_can_be_switched_off(valkey_url: str) -> None:
    async with worker_that_says(valkey_url, TWO, auto_tool_choice=False), running_api(valkey_url) as api:
        for fields in ({}, {"tool_choice": "auto"}, {"tool_choice": None}):
            error = await refusal(api, **fields)
            assert error["param"] == "tool_choice"
            assert "--no-enable-auto-tool-choice" in error["message"]
        assert (await answer_of(api, tool_choice="none"))["message"]["content"] == TWO


async def test_a_model_whose_parser_nobody_knows_is_not_served(valkey_url: str) -> None:
    async with worker_that_says(valkey_url, TWO, tool_parser="mine"), running_api(valkey_url) as api:
        response = await api.http.post(CHAT, json={"model": "tiny", "messages": HI})
        assert response.status_code == 503
        assert "no tool parser 'mine'" in response.json()["error"]["message"]
        assert "no tool parser 'mine'" in (await api.http.get("/ready")).text


async def test_required_calls_have_the_models_own_form(api: Api, worker: ScriptedWorker) -> None:
    choice = await answer_of(api, tool_choice="required")
    assert choice["finish_reason"] == "tool_calls"
    grammar = worker.jobs[-1].sampling.grammar
    assert grammar is not None
    assert (grammar.kind, grammar.backend) == (GrammarKind.STRUCTURAL_TAG, GrammarBackend.XGRAMMAR)
    format_ = json.loads(grammar.source)["format"]
    assert (format_["at_least_one"], format_["stop_after_first"]) == (True, False)
    assert [tag["begin"] for tag in format_["tags"]] == [
        f'<tool_call>\n{{"name": "{name}", "arguments": ' for name in ("weather", "time")
    ]
    assert format_["tags"][0]["content"]["json_schema"] == {**CITY, "additionalProperties": False}
    await answer_of(api, tool_choice="required", parallel_tool_calls=False)
    grammar = worker.jobs[-1].sampling.grammar
    assert grammar is not None
    assert json.loads(grammar.source)["format"]["stop_after_first"] is True


async def test_a_schema_beyond_the_own_form_is_held_to_as_plain_json(valkey_url: str) -> None:
    text = '[{"name": "f", "parameters": {"a": {"b": "x"}}}, {"name": "f", "parameters": {"a": null}}]'
    inner = {"type": "object", "properties": {"b": {"type": "string", "minLength": 1}}}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": inner}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    async with worker_that_says(valkey_url, text) as worker, running_api(valkey_url) as api:
        choice = await answer_of(api, tools=[tool], tool_choice="required")
        assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == [
            '{"a": {"b": "x"}}',
            '{"a": null}',
        ]
        assert choice["finish_reason"] == "tool_calls"
        grammar = worker.jobs[-1].sampling.grammar
        assert grammar is not None
        assert (grammar.kind, grammar.backend) == (GrammarKind.JSON_SCHEMA, GrammarBackend.GUIDANCE)
        source = json.loads(grammar.source)
        assert source["$defs"]["call0"]["properties"]["a"] == {"$ref": "#/$defs/call0/$defs/A"}
        assert source["minItems"] == 1
        await answer_of(api, tools=[tool], tool_choice="required", parallel_tool_calls=False)
        grammar = worker.jobs[-1].sampling.grammar
        assert grammar is not None
        assert json.loads(grammar.source)["maxItems"] == 1


async def test_a_named_function_is_called_and_the_answer_stops(valkey_url: str) -> None:
    text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    async with worker_that_says(valkey_url, text) as worker, running_api(valkey_url) as api:
        for choice in (await answer_of(api, tool_choice=named("weather")),):
            [call] = choice["message"]["tool_calls"]
            assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
            assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
        assert described(worker) == ["weather"]
        grammar = worker.jobs[-1].sampling.grammar
        assert grammar is not None
        [tag] = json.loads(grammar.source)["format"]["tags"]
        assert "weather" in tag["begin"]
        chunks = await chunks_of(api, tool_choice=named("weather"))
        assert collected(chunks)[1][0]["function"] == call["function"]
        assert chunks[-1]["finish_reason"] == "stop"


async def test_a_named_function_of_a_model_without_a_form_answers_its_arguments(valkey_url: str) -> None:
    async with (
        worker_that_says(valkey_url, '{"city": "Rome"}', tool_parser="pythonic") as worker,
        running_api(valkey_url) as api,
    ):
        choice = await answer_of(api, tool_choice=named("weather"))
        [call] = choice["message"]["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
        grammar = worker.jobs[-1].sampling.grammar
        assert grammar is not None
        assert grammar.kind is GrammarKind.JSON_SCHEMA
        assert collected(await chunks_of(api, tool_choice=named("weather")))[1][0]["function"] == call["function"]


async def test_only_allowed_tools_are_offered(api: Api, worker: ScriptedWorker) -> None:
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named("time")]}}
        await answer_of(api, tool_choice=choice)
        assert described(worker) == ["time"]
        grammar = worker.jobs[-1].sampling.grammar
        assert (grammar is not None) == (mode == "required")


async def test_strict_tools_are_held_to_their_schemas_whenever_they_are_called(
    api: Api, worker: ScriptedWorker
) -> None:
    strict = {**WEATHER, "function": WEATHER["function"] | {"strict": True}}
    await answer_of(api, tools=[strict, TIME])
    grammar = worker.jobs[-1].sampling.grammar
    assert grammar is not None
    format_ = json.loads(grammar.source)["format"]
    assert (format_["type"], format_["triggers"]) == ("triggered_tags", ["<tool_call>"])
    assert [tag["content"]["json_schema"].get("required") for tag in format_["tags"]] == [["city"], None]
    assert "strict" not in prompt_text(worker)


async def test_strictness_that_cannot_be_had_is_refused_by_name(api: Api, valkey_url: str) -> None:
    function = {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    error = await refusal(api, tools=[WEATHER, {"type": "function", "function": function}])
    assert error["param"] == "tools[1].function.parameters"
    async with worker_that_says(valkey_url, TWO, name="loose", tool_parser="pythonic"), running_api(valkey_url) as more:
        strict = [{**WEATHER, "function": WEATHER["function"] | {"strict": True, "name": name}} for name in "ab"]
        error = await refusal(more, model="loose", tools=[TIME, *strict])
        assert error["param"] == "tools[1].function.strict"
        assert error["message"].startswith("2 problems: ")
        assert "tools[2].function.strict" in error["message"]


async def test_a_schema_that_is_none_is_refused_where_it_would_be_needed(api: Api, worker: ScriptedWorker) -> None:
    broken = {"type": "function", "function": {"name": "f", "parameters": {"type": "thing"}}}
    for choice in ("required", named("f")):
        error = await refusal(api, tools=[WEATHER, broken], tool_choice=choice)
        assert error["param"] == "tools[1].function.parameters"
    # Without a grammar the schema is nothing but a description.
    await answer_of(api, tools=[WEATHER, broken])
    assert len(worker.jobs) == 1


async def test_an_answer_of_a_form_may_still_be_calls(api: Api, worker: ScriptedWorker) -> None:
    await answer_of(api, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}})
    grammar = worker.jobs[-1].sampling.grammar
    assert grammar is not None
    calls, answer = json.loads(grammar.source)["format"]["elements"]
    assert calls["type"] == "tags_with_separator"
    assert answer["json_schema"]["required"] == ["city"]
    # guidance knows no structural tags, so the form goes first.
    await answer_of(api, guided_json=CITY, guided_decoding_backend="guidance")
    grammar = worker.jobs[-1].sampling.grammar
    assert grammar is not None
    assert (grammar.kind, grammar.backend) == (GrammarKind.JSON_SCHEMA, GrammarBackend.GUIDANCE)


async def test_thoughts_come_before_calls(valkey_url: str) -> None:
    text = "<think>The weather.</think>\n\n" + TWO.partition("\n")[2]
    async with worker_that_says(valkey_url, text, reasoning_parser="qwen3") as worker, running_api(valkey_url) as api:
        choice = await answer_of(api)
        assert choice["message"]["reasoning"] == "The weather."
        assert choice["message"]["content"] is None
        assert len(choice["message"]["tool_calls"]) == 2
        content, calls = collected(await chunks_of(api))
        assert (content, len(calls)) == ("", 2)
        await answer_of(api, tool_choice="required")
        grammar = worker.jobs[-1].sampling.grammar
        assert grammar is not None
        assert (grammar.after, grammar.unless_begun) == ("</think>", ("<think>",))


async def test_a_conversation_with_calls_goes_on(api: Api, worker: ScriptedWorker) -> None:
    client = api.sdk.chat.completions
    messages: list[Any] = [*HI]
    answer = await client.create(model="tiny", messages=messages, tools=[WEATHER, TIME])
    message = answer.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or []:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    await client.create(model="tiny", messages=messages, tools=[WEATHER, TIME])
    assert prompt_text(worker).count("<|tool|>sunny") == 2


async def test_arguments_are_objects_for_the_template(valkey_url: str) -> None:
    template = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments.city }};{% endfor %}{{ m.content is none }}{% endfor %}"
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    async with worker_that_says(valkey_url, "ok", template=template) as worker, running_api(valkey_url) as api:
        await answer_of(api, messages=[{"role": "assistant", "content": None, "tool_calls": [call, call]}])
        assert prompt_text(worker).startswith("Rome;Rome;")


@pytest.mark.parametrize(
    ("parser", "text", "ids"),
    [
        ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]', r"[A-Za-z0-9]{9}"),
        (
            "kimi_k2",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
            '{"city": "Rome"}<|tool_call_end|><|tool_calls_section_end|>',
            r"functions\.weather:2",
        ),
    ],
)
async def test_ids_have_the_style_of_the_family(valkey_url: str, parser: str, text: str, ids: str) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    messages = [*HI, {"role": "assistant", "tool_calls": [call, call]}]
    async with worker_that_says(valkey_url, text, tool_parser=parser), running_api(valkey_url) as api:
        [told] = (await answer_of(api, messages=messages))["message"]["tool_calls"]
        assert re.fullmatch(ids, told["id"])


async def test_a_template_that_wants_short_ids_gets_them(valkey_url: str) -> None:
    template = "{% for m in messages %}{{ m.tool_call_id }}{% for c in m.tool_calls or [] %}{{ c.id }}{% endfor %};{% endfor %}"
    call = {"id": "chatcmpl-tool-0123456789", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": ""},
    ]
    for parser, shown in (("mistral", "123456789;123456789;"), ("hermes", f"{call['id']};{call['id']};")):
        async with (
            worker_that_says(valkey_url, "ok", name=parser, tool_parser=parser, template=template) as worker,
            running_api(valkey_url) as api,
        ):
            await answer_of(api, messages=messages)
            assert prompt_text(worker) == shown


async def test_special_tokens_are_written_for_the_parser_and_hidden_from_the_client(valkey_url: str) -> None:
    text = "Let <s>me see.</s><s>" + TWO.partition("\n")[2]
    async with worker_that_says(valkey_url, text) as worker, running_api(valkey_url) as api:
        choice = await answer_of(api)
        assert worker.jobs[-1].stopping.skip_special_tokens is False
        assert choice["message"]["content"] == "Let me see.</s>"
        content, calls = collected(await chunks_of(api))
        assert (content, len(calls)) == ("Let me see.</s>", 2)
        assert (await answer_of(api, skip_special_tokens=False))["message"]["content"] == "Let <s>me see.</s><s>"
        await answer_of(api, tool_choice="none")
        assert worker.jobs[-1].stopping.skip_special_tokens is True


async def test_the_template_for_tools_is_taken_where_there_is_one(valkey_url: str) -> None:
    async with worker_that_says(valkey_url, "ok") as worker:
        digest = await worker._blobs.put(b"with tools: {{ tools | length }}")
        async with (
            worker_that_says(valkey_url, "ok", name="two", tool_template=digest) as two,
            running_api(valkey_url) as api,
        ):
            await answer_of(api, model="two")
            assert prompt_text(two) == "with tools: 2"
            await answer_of(api, model="two", tool_choice="none")
            assert prompt_text(two).startswith("<|user|>hi")


async def test_tokenize_counts_what_a_chat_would_send(api: Api, worker: ScriptedWorker) -> None:
    await answer_of(api)
    response = await api.http.post("/tokenize", json={"messages": HI, "tools": [WEATHER, TIME]})
    assert response.json()["tokens"] == unpack_ids(worker.jobs[-1].prompt)
    refused = await api.http.post("/tokenize", json={"messages": HI, "tools": [TIME, TIME]})
    assert refused.json()["error"]["param"] == "tools[1].function.name"


async def test_unknown_fields_of_tools_are_named(api: Api) -> None:
    tool = {"type": "function", "later": 1, "function": {"name": "f", "soon": 2}}
    response = await api.http.post(CHAT, json={"messages": HI, "tools": [tool]})
    assert response.headers["X-Headrace-Unknown-Fields"] == "tools[0].later, tools[0].function.soon"


async def test_a_stream_can_be_gone_on_with_in_the_middle_of_a_call(api: Api, valkey_url: str) -> None:
    body = {"messages": HI, "tools": [WEATHER, TIME], "stream": True, "n": 2}
    response = await api.http.post(CHAT, json=body)
    events = sse_events(response.text)
    async with running_api(valkey_url) as other:
        for position in range(0, len(events), 7):
            event_id = events[position][0]
            request_id = event_id.partition(":")[0]
            rest = await other.http.get(f"/v1/requests/{request_id}/stream", headers={"Last-Event-ID": event_id})
            assert sse_events(rest.text) == events[position + 1 :]


async def test_the_sdk_parses_strict_calls(api: Api) -> None:
    class weather(BaseModel):  # noqa: N801 - the function's name
        city: str

    class time(BaseModel):  # noqa: N801
        pass

    tools = [openai.pydantic_function_tool(weather), openai.pydantic_function_tool(time)]
    answer = await api.sdk.chat.completions.parse(model="tiny", messages=HI, tools=tools)
    [first, _] = answer.choices[0].message.tool_calls or []
    assert first.function.parsed_arguments == weather(city="Rome")
    async with api.sdk.chat.completions.stream(model="tiny", messages=HI, tools=tools) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    [first, second] = final.choices[0].message.tool_calls or []
    assert first.function.parsed_arguments == weather(city="Rome")
    assert second.function.parsed_arguments == time()


async def test_a_call_is_told_while_it_is_written(valkey_url: str) -> None:
    go_on = asyncio.Event()

    async def gated(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        count = 0
        async for events in say(claim.job, TWO):
            count += 1
            if count > TWO.index("Rome") + 3:
                await go_on.wait()
            yield events

    card = {"tool_parser": "hermes", "template": SHOWN, "max_model_len": 4096}
    async with running_worker(valkey_url, script=gated, **card), running_api(valkey_url) as api:
        seen = ""

        async def follow() -> None:
            nonlocal seen
            stream = await api.sdk.chat.completions.create(model="tiny", messages=HI, tools=[WEATHER], stream=True)
            async for chunk in stream:
                for call in chunk.choices[0].delta.tool_calls or []:
                    seen += (call.function.arguments if call.function else "") or ""

        following = asyncio.create_task(follow())
        await eventually(lambda: seen == '{"city": "Ro')
        go_on.set()
        await following
        assert seen == '{"city": "Rome"}{}'


async def counted_parses(api: Api) -> dict[str, float]:
    """By mode and outcome."""
    text = (await api.http.get("/metrics")).text
    pattern = r'vllm:tool_call_parser_invocations_total\{mode="(\w+)",model_name="[^"]+",outcome="(\w+)",request_type="(\w+)"\} (\S+)'
    return {f"{mode} {outcome} {kind}": float(n) for mode, outcome, kind, n in re.findall(pattern, text)}


async def test_reading_answers_for_calls_is_counted_as_vllm_counts_it(valkey_url: str) -> None:
    async with worker_that_says(valkey_url, TWO), running_api(valkey_url) as api:
        await answer_of(api, n=2)
        assert (await counted_parses(api))["non_streaming tool_call chat_completions"] == 2
        body = {"messages": HI, "tools": [WEATHER, TIME], "stream": True}
        assert (await api.http.post(CHAT, json=body)).is_success
        await api.http.post(CHAT, json={"messages": HI})
        found = await counted_parses(api)
        assert found["streaming tool_call chat_completions"] > 0
        assert found["non_streaming tool_call chat_completions"] == 2, "without tools nothing is looked for"
        body = {"input": "hi", "tools": [{"type": "function", "name": "time"}], "store": False}
        assert (await api.http.post("/v1/responses", json=body)).is_success
        assert (await counted_parses(api))["non_streaming tool_call responses"] == 1


async def test_an_answer_without_calls_is_counted_as_one(valkey_url: str) -> None:
    async with worker_that_says(valkey_url, "It is sunny."), running_api(valkey_url) as api:
        await answer_of(api)
        assert await counted_parses(api) == {
            "non_streaming tool_call chat_completions": 0,
            "non_streaming no_tool_call chat_completions": 1,
        }
