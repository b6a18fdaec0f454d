"""POST /v1/messages, as Anthropic's own SDK sees it, and byte by byte."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anthropic
import pytest
from live_api import Api, running_api
from scripted_worker import ScriptedWorker, running_worker, say

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import Delta, Event, Failed, Finished, FinishReason, Started
from headrace_shared.queue.claims import Claim

MESSAGES = "/v1/messages"
HI: list[Any] = [{"role": "user", "content": "hi"}]
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 50, "messages": HI}


@pytest.fixture
async def claude(api: Api) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with client_of(api) as client:
        yield client


@pytest.fixture
async def other(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    """A second API node."""
    async with running_api(valkey_url) as api:
        yield api


def client_of(api: Api, **options: Any) -> anthropic.AsyncAnthropic:
    options = {"api_key": "none", "max_retries": 0} | options
    return anthropic.AsyncAnthropic(base_url=api.base_url, **options)


def prompt_of(worker: ScriptedWorker) -> str:
    return worker.text_of(unpack_ids(worker.jobs[-1].prompt))


async def create(client: anthropic.AsyncAnthropic, **fields: Any) -> anthropic.types.Message:
    return await client.messages.create(**(BODY | fields))


async def test_an_answer_is_a_message(claude: anthropic.AsyncAnthropic, worker: ScriptedWorker) -> None:
    message = await create(claude)
    assert message.id == f"msg_{worker.claims[0].request_id}"
    assert (message.type, message.role, message.model) == ("message", "assistant", "tiny")
    [block] = message.content
    assert (block.type, block.text) == ("text", "Hello!")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.input_tokens == len(unpack_ids(worker.jobs[0].prompt))
    assert (message.usage.output_tokens, message.usage.cache_read_input_tokens) == (6, 0)
    anthropic.types.Message.model_validate(message.model_dump(), strict=True)


async def test_a_stream_tells_the_same_in_typed_events(api: Api, claude: anthropic.AsyncAnthropic) -> None:
    whole = await create(claude)
    async with claude.messages.stream(**BODY) as stream:
        text = [piece async for piece in stream.text_stream]
        final = await stream.get_final_message()
    assert "".join(text) == "Hello!"
    assert final.model_dump(exclude={"id"}) == whole.model_dump(exclude={"id"})

    response = await api.http.post(MESSAGES, json=BODY | {"stream": True})
    names = [line.removeprefix("event: ") for line in response.text.split("\n") if line.startswith("event: ")]
    deltas = ["content_block_delta"] * 6
    assert names == [
        *("message_start", "ping", "content_block_start"),
        *deltas,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert [json.loads(data)["type"] for data in datas(response.text)] == names
    assert "[DONE]" not in response.text


def datas(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]


def blocks_of(text: str) -> list[str]:
    return [block for block in text.split("\n\n") if block]


async def test_a_stream_resumes_at_every_event_with_the_same_bytes_on_another_node(api: Api, other: Api) -> None:
    response = await api.http.post(MESSAGES, json=BODY | {"stream": True})
    request_id = response.headers["x-headrace-request-id"]
    blocks = blocks_of(response.text)
    assert [block.split("\n")[0] for block in blocks] == [f"id: {request_id}:{n + 1}" for n in range(len(blocks))]
    for position in range(len(blocks) + 1):
        params = {"starting_after": str(position)}
        rest = await other.http.get(f"/v1/requests/msg_{request_id}/stream", params=params)
        assert blocks_of(rest.text) == blocks[position:]


async def test_system_and_turns_reach_the_template(claude: anthropic.AsyncAnthropic, worker: ScriptedWorker) -> None:
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    await create(claude, system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}], messages=turns)
    assert prompt_of(worker) == "<|system|>s\n<|user|>a\nb\n<|assistant|>c\n<|user|>d\n<|assistant|>"
    await create(claude, system="t")
    assert prompt_of(worker) == "<|system|>t\n<|user|>hi\n<|assistant|>"


async def test_a_last_word_of_the_assistants_is_gone_on_with(
    claude: anthropic.AsyncAnthropic, worker: ScriptedWorker
) -> None:
    await create(claude, messages=[*HI, {"role": "assistant", "content": "He"}])
    assert prompt_of(worker) == "<|user|>hi\n<|assistant|>He"


async def test_results_of_tools_are_messages_of_their_own(
    claude: anthropic.AsyncAnthropic, worker: ScriptedWorker
) -> None:
    turns: list[Any] = [
        *HI,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "one"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no", "is_error": True},
                {"type": "text", "text": "and?"},
            ],
        },
    ]
    await create(claude, messages=turns)
    assert prompt_of(worker).endswith("<|tool|>one\n<|tool|>Error: no\n<|user|>and?\n<|assistant|>")


async def test_sampling_reaches_the_worker(claude: anthropic.AsyncAnthropic, worker: ScriptedWorker) -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 7}
    await create(claude, stop_sequences=["x", "y"], extra_body=sampling, max_tokens=3)
    job = worker.jobs[-1]
    assert (job.sampling.temperature, job.sampling.top_p, job.sampling.top_k) == (0.5, 0.9, 7)
    assert (job.stopping.stop, job.stopping.max_tokens) == (("x", "y"), 3)


async def test_an_answer_that_was_cut_says_so(claude: anthropic.AsyncAnthropic) -> None:
    message = await create(claude, max_tokens=2)
    assert (message.content[0].text, message.stop_reason) == ("He", "max_tokens")  # type: ignore[union-attr]


async def test_a_stop_sequence_is_named(valkey_url: str) -> None:
    async def stops(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        prompt = len(unpack_ids(claim.job.prompt))
        yield [Started("scripted"), Delta(0, [1, 2], "Hi", None, FinishReason.STOP, "!"), Finished(prompt, 2, 4)]

    async with running_worker(valkey_url, script=stops), running_api(valkey_url) as api, client_of(api) as client:
        message = await create(client)
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "!")
        assert message.usage.cache_read_input_tokens == 4
        async with client.messages.stream(**BODY) as stream:
            final = await stream.get_final_message()
        assert final.usage == message.usage
        assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "!")


async def test_an_empty_answer_is_one_empty_block(valkey_url: str) -> None:
    async def nothing(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("scripted"), Delta(0, [1], "", None, FinishReason.STOP), Finished(3, 1)]

    async with running_worker(valkey_url, script=nothing), running_api(valkey_url) as api, client_of(api) as client:
        assert (await create(client)).content[0].text == ""  # type: ignore[union-attr]
        async with client.messages.stream(**BODY) as stream:
            assert (await stream.get_final_message()).content[0].text == ""  # type: ignore[union-attr]


async def test_tokens_are_counted_as_they_would_be_used(
    claude: anthropic.AsyncAnthropic, worker: ScriptedWorker
) -> None:
    counted = await claude.messages.count_tokens(model="tiny", system="be", messages=HI)
    message = await create(claude, system="be")
    assert counted.input_tokens == message.usage.input_tokens
    assert len(worker.claims) == 1


async def test_a_key_is_taken_from_either_header(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, api_keys="one") as api:
        for options in ({"api_key": "one"}, {"api_key": None, "auth_token": "one"}):
            async with client_of(api, **options) as client:
                assert (await create(client)).stop_reason == "end_turn"
        async with client_of(api, api_key="two") as client:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await create(client)
    assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


async def test_what_agents_send_along_is_taken(claude: anthropic.AsyncAnthropic, worker: ScriptedWorker) -> None:
    user = f"user_{'0' * 64}_account__session_{'1' * 36}_{'2' * 36}"
    keep_all = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    headers = {"anthropic-beta": "interleaved-thinking-2025-05-14"}
    for name in (user, "ann"):
        await create(
            claude, metadata={"user_id": name}, extra_body={"context_management": keep_all}, extra_headers=headers
        )
    tenants = [job.header.tenant for job in worker.jobs]
    assert tenants[0].startswith("user-")
    assert tenants[1] == "ann"


async def test_errors_are_of_the_sdks_classes(claude: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        await create(claude, model="none")
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    assert missing.value.request_id == missing.value.body["request_id"]  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match=r"max_tokens"):
        await create(claude, max_tokens=0)
    with pytest.raises(anthropic.BadRequestError, match=r"context length is 512 tokens"):
        await create(claude, messages=[{"role": "user", "content": "x" * 600}])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "x", "name": "f", "input": {}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]},
         "messages[0].content[0]"),
        ({"temperature": 1.5}, "temperature"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 50}}, "thinking.budget_tokens"),
        ({"container": "x"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"max_tokens": None}, "max_tokens"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_by_name(api: Api, fields: dict[str, Any], param: str) -> None:
    response = await api.http.post(MESSAGES, json=BODY | fields)
    assert response.status_code == 400, response.text
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert f"{param}:" in body["error"]["message"]
    assert response.headers["request-id"] == body["request_id"]


async def test_what_nobody_knows_is_named(api: Api) -> None:
    response = await api.http.post(MESSAGES, json=BODY | {"wish": 1})
    assert response.status_code == 200
    assert response.headers["x-headrace-unknown-fields"] == "wish"


async def test_errors_of_the_framework_are_in_the_same_words(api: Api) -> None:
    for method, path, status in (("GET", MESSAGES, 405), ("POST", f"{MESSAGES}/batches", 404)):
        response = await api.http.request(method, path)
        assert (response.status_code, response.json()["type"]) == (status, "error")
    response = await api.http.post(MESSAGES, content="x")
    assert (response.status_code, response.json()["error"]["type"]) == (415, "invalid_request_error")


async def test_a_failure_within_a_stream_is_an_error_event(valkey_url: str) -> None:
    async def fails(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        async for events in say(claim.job, "Hello!"):
            if any(getattr(event, "finish_reason", None) for event in events):
                yield [Failed(ErrorCode.POISONED, "no more")]
                return
            yield events

    async with running_worker(valkey_url, script=fails), running_api(valkey_url) as api, client_of(api) as client:
        with pytest.raises(anthropic.APIStatusError, match="no more"):
            async with client.messages.stream(**BODY) as stream:
                await stream.get_final_message()
        response = await api.http.post(MESSAGES, json=BODY | {"stream": True})
        last = blocks_of(response.text)[-1].split("\n")
        assert last[1] == "event: error"
        assert json.loads(last[2].removeprefix("data: "))["error"] == {"type": "api_error", "message": "no more"}


async def test_a_whole_message_can_be_followed_as_a_stream(api: Api, other: Api) -> None:
    answer = (await api.http.post(MESSAGES, json=BODY)).json()
    stream = await other.http.get(f"/v1/requests/{answer['id']}/stream")
    assert json.loads(datas(stream.text)[0])["message"]["id"] == answer["id"]
