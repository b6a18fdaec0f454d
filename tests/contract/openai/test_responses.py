"""POST /v1/responses, as the official SDK sees it, and byte by byte."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import openai
import pytest
from live_api import Api, running_api
from openai.types.responses import Response
from pydantic import BaseModel
from scripted_worker import ScriptedWorker, running_worker, say

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import Delta, Event, Failed, Finished, FinishReason, Started
from headrace_shared.queue.claims import Claim

RESPONSES = "/v1/responses"
BODY: dict[str, Any] = {"model": "tiny", "input": "hi"}


@pytest.fixture
async def other(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    """A second API node."""
    async with running_api(valkey_url) as api:
        yield api


def prompt_of(worker: ScriptedWorker) -> str:
    return worker.text_of(unpack_ids(worker.jobs[-1].prompt))


async def create(api: Api, **fields: Any) -> Response:
    response: Response = await api.sdk.responses.create(**(BODY | fields))
    return response


def exact(response: Response) -> None:
    """The SDK builds its objects without a look at them; this does look."""
    Response.model_validate_json(response.model_dump_json(by_alias=True, exclude_unset=True), strict=True)


def blocks_of(text: str) -> list[str]:
    return [block for block in text.split("\n\n") if block]


def data_of(block: str) -> Any:
    return json.loads(block.split("\n")[2].removeprefix("data: "))


async def events_of(api: Api, **fields: Any) -> list[str]:
    response = await api.http.post(RESPONSES, json=BODY | {"stream": True} | fields)
    assert response.status_code == 200, response.text
    return blocks_of(response.text)


async def test_a_response_is_what_the_sdk_expects(api: Api, worker: ScriptedWorker) -> None:
    response = await create(api, instructions="be", metadata={"a": "b"}, max_output_tokens=50, temperature=0.5)
    exact(response)
    assert response.id == f"resp_{worker.claims[0].request_id}"
    assert (response.status, response.output_text, response.error) == ("completed", "Hello!", None)
    assert (response.instructions, response.metadata, response.max_output_tokens) == ("be", {"a": "b"}, 50)
    assert (response.temperature, response.top_p, response.truncation) == (0.5, 1.0, "disabled")
    usage = response.usage
    assert usage is not None
    assert usage.input_tokens == len(unpack_ids(worker.jobs[0].prompt))
    assert (usage.output_tokens, usage.total_tokens) == (6, usage.input_tokens + 6)
    assert usage.output_tokens_details.reasoning_tokens == usage.input_tokens_details.cached_tokens == 0
    assert prompt_of(worker) == "<|system|>be\n<|user|>hi\n<|assistant|>"


async def test_a_stream_tells_the_same_in_typed_events(api: Api) -> None:
    whole = await create(api)
    async with api.sdk.responses.stream(**BODY) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "Hello!"
    final_fields, whole_fields = (each.model_dump(exclude={"id", "output"}) for each in (final, whole))
    assert {**final_fields, "created_at": 0} == {**whole_fields, "created_at": 0}
    exact(events[-1].response)  # type: ignore[union-attr]

    blocks = await events_of(api)
    kinds = [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *(["output_text.delta"] * 6),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    told = [data_of(block) for block in blocks]
    assert [event["type"] for event in told] == [f"response.{kind}" for kind in kinds]
    assert [event["sequence_number"] for event in told] == list(range(len(kinds)))
    assert [block.split("\n")[1] for block in blocks] == [f"event: response.{kind}" for kind in kinds]
    assert told[0]["response"]["status"] == "in_progress"
    assert told[-1]["response"]["output"] == [told[-2]["item"]]


async def test_a_stored_response_is_fetched_and_followed_on_any_node(api: Api, other: Api) -> None:
    blocks = await events_of(api)
    ended = data_of(blocks[-1])["response"]
    fetched = await other.http.get(f"{RESPONSES}/{ended['id']}")
    assert fetched.json() == ended
    for number in (None, *range(len(blocks))):
        params = {"stream": "true"} | ({} if number is None else {"starting_after": str(number)})
        rest = await other.http.get(f"{RESPONSES}/{ended['id']}", params=params)
        assert blocks_of(rest.text) == blocks[0 if number is None else number + 1 :]
    stream = await other.sdk.responses.retrieve(ended["id"], stream=True, starting_after=5)
    assert [event.sequence_number async for event in stream] == list(range(6, len(blocks)))
    request_id = ended["id"].removeprefix("resp_")
    again = await other.http.get(f"/v1/requests/{request_id}/stream")
    assert blocks_of(again.text) == blocks


async def test_a_response_goes_on_from_an_earlier_one(api: Api, other: Api, worker: ScriptedWorker) -> None:
    first = await create(api, input="one", instructions="only here")
    second = await create(other, input="two", previous_response_id=first.id)
    third = await create(api, input=[{"role": "user", "content": "three"}], previous_response_id=second.id)
    talk = "<|user|>one\n<|assistant|>Hello!\n<|user|>two\n<|assistant|>Hello!\n<|user|>three\n<|assistant|>"
    assert prompt_of(worker) == talk
    assert third.previous_response_id == second.id

    items = await api.sdk.responses.input_items.list(third.id, order="asc")
    assert [item.role for item in items.data] == ["user", "assistant", "user", "assistant", "user"]  # type: ignore[union-attr]
    assert items.data[0].content[0].text == "one"  # type: ignore[union-attr]
    page = await api.sdk.responses.input_items.list(third.id, limit=2)
    assert [item.id for item in page.data] == [item.id for item in items.data[:2:-1]]
    assert [item.id async for item in page] == [item.id for item in items.data[::-1]]

    await api.sdk.responses.delete(first.id)
    await create(other, input="four", previous_response_id=third.id)
    assert prompt_of(worker).startswith("<|user|>one\n<|assistant|>Hello!\n<|user|>two")


async def test_items_become_turns(api: Api, worker: ScriptedWorker) -> None:
    items: list[Any] = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be"}]},
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "ho", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "one"},
    ]
    await create(api, input=items)
    assert prompt_of(worker) == "<|system|>be\n<|user|>hi\n<|assistant|>ho\n<|tool|>one\n<|assistant|>"


async def test_what_is_not_stored_cannot_be_fetched(api: Api) -> None:
    response = await create(api, store=False)
    assert response.store is False  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        await api.sdk.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError) as refused:
        await create(api, previous_response_id=response.id)
    assert refused.value.param == "previous_response_id"
    assert (await api.http.get(f"/v1/requests/{response.id}/stream")).status_code == 200


async def test_what_is_deleted_is_gone(api: Api, other: Api) -> None:
    response = await create(api)
    assert (await other.http.delete(f"{RESPONSES}/{response.id}")).json() == {
        "id": response.id,
        "object": "response",
        "deleted": True,
    }
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        assert (await api.http.request(method, f"{RESPONSES}/{response.id}{path}")).status_code == 404
    assert (await api.http.get(f"/v1/requests/{response.id}/stream")).status_code == 404


async def test_responses_of_other_keys_look_as_if_they_did_not_exist(valkey_url: str, worker: ScriptedWorker) -> None:
    async with running_api(valkey_url, api_keys="one,two") as api:
        mine, theirs = (api.sdk.with_options(api_key=key) for key in ("one", "two"))
        response = await mine.responses.create(**BODY)
        for call in (theirs.responses.retrieve, theirs.responses.delete, theirs.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(response.id)
        with pytest.raises(openai.NotFoundError):
            await theirs.responses.create(**BODY, previous_response_id=response.id)
        assert (await mine.responses.retrieve(response.id)).output_text == "Hello!"


async def test_an_answer_that_was_cut_is_incomplete(api: Api) -> None:
    response = await create(api, max_output_tokens=2)
    exact(response)
    assert (response.status, response.output_text) == ("incomplete", "He")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]
    last = data_of((await events_of(api, max_output_tokens=2))[-1])
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")


async def test_logprobs_come_with_the_text(api: Api) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = await create(api, **asked)
    exact(response)
    logprobs = response.output[0].content[0].logprobs  # type: ignore[union-attr]
    assert [entry.token for entry in logprobs] == list("Hello!")  # type: ignore[union-attr]
    assert [len(entry.top_logprobs) for entry in logprobs] == [2] * 6  # type: ignore[union-attr]
    deltas = [data_of(block) for block in await events_of(api, **asked)][4:10]
    assert [delta["logprobs"][0]["token"] for delta in deltas] == list("Hello!")


async def test_a_fetch_may_ask_again_for_what_the_response_has(api: Api) -> None:
    logprobs = "message.output_text.logprobs"
    response = await create(api, include=[logprobs])
    fetched = await api.sdk.responses.retrieve(response.id, include=[logprobs])
    assert fetched.output[0].content[0].logprobs == response.output[0].content[0].logprobs  # type: ignore[union-attr]
    other = await api.http.get(f"/v1/responses/{response.id}", params={"include[]": "file_search_call.results"})
    assert (other.status_code, other.json()["error"]["param"]) == (400, "include")
    assert logprobs in other.json()["error"]["message"]


async def test_parameters_of_a_fetch_are_heeded_or_refused(api: Api) -> None:
    response = await create(api)
    for params in (
        {"starting_after": "3"},
        {"include_obfuscation": "true"},
        {"include": "message.output_text.logprobs"},
        {"starting_after": "-1", "stream": "true"},
    ):
        refused = await api.http.get(f"{RESPONSES}/{response.id}", params=params)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(params)))


async def test_a_conversation_does_not_grow_without_end(valkey_url: str, worker: ScriptedWorker) -> None:
    async def talk(api: Api) -> None:
        earlier = None
        for _ in range(9):
            earlier = (await create(api, input="y" * 300, previous_response_id=earlier, truncation="auto")).id

    async with running_api(valkey_url, max_body_bytes=2048) as api:
        with pytest.raises(openai.BadRequestError, match="begin a new one"):
            await talk(api)


class Word(BaseModel):
    word: str


async def test_a_parsed_answer_follows_its_schema(valkey_url: str) -> None:
    async def writes(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        async for events in say(claim.job, '{"word":"x"}'):
            yield events

    async with (
        running_worker(valkey_url, script=writes, grammar_backends=("guidance",)) as worker,
        running_api(valkey_url) as api,
    ):
        response = await api.sdk.responses.parse(**BODY, text_format=Word)
        assert response.output_parsed == Word(word="x")
        assert worker.jobs[0].sampling.grammar is not None
        assert '"word"' in worker.jobs[0].sampling.grammar.source
        plain = await create(api, text={"format": {"type": "json_object"}})
        assert plain.text is not None
        assert plain.text.format is not None
        assert plain.text.format.type == "json_object"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "computer_call_output", "call_id": "x"}]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name"),
        ({"background": True, "store": False}, "background"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 99, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"truncation": "some"}, "truncation"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x" * 600}, "input"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(api: Api, fields: dict[str, Any], param: str) -> None:
    response = await api.http.post(RESPONSES, json=BODY | fields)
    assert response.status_code in (400, 404), response.text
    assert response.json()["error"]["param"] == param


async def test_a_conversation_that_is_too_long_can_lose_its_oldest_turns(api: Api, worker: ScriptedWorker) -> None:
    turns = [{"role": "user", "content": f"{number}" + "x" * 90} for number in range(9)]
    with pytest.raises(openai.BadRequestError, match="context length is 512 tokens"):
        await create(api, input=turns)
    response = await create(api, input=turns, instructions="be", truncation="auto")
    assert response.truncation == "auto"
    prompt = prompt_of(worker)
    assert prompt.startswith("<|system|>be\n<|user|>5xx")
    assert prompt.endswith("8" + "x" * 90 + "\n<|assistant|>")


async def test_a_failure_is_told_by_the_stream_and_afterwards(valkey_url: str) -> None:
    async def fails(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        async for events in say(claim.job, "Hello!"):
            if any(getattr(event, "finish_reason", None) for event in events):
                yield [Failed(ErrorCode.POISONED, "no more")]
                return
            yield events

    async with running_worker(valkey_url, script=fails), running_api(valkey_url) as api:
        blocks = await events_of(api)
        last = data_of(blocks[-1])
        assert (last["type"], last["sequence_number"]) == ("response.failed", len(blocks) - 1)
        assert last["response"]["error"] == {"code": "server_error", "message": "no more"}
        response = await api.sdk.responses.retrieve(last["response"]["id"])
        exact(response)
        assert (response.status, response.output_text) == ("failed", "Hello")
        assert response.output[0].status == "incomplete"  # type: ignore[union-attr]
        with pytest.raises(openai.BadRequestError, match="failed"):
            await create(api, previous_response_id=response.id)
        with pytest.raises(openai.InternalServerError):
            await create(api)


async def test_an_empty_answer_is_one_empty_message(valkey_url: str) -> None:
    async def nothing(_worker: ScriptedWorker, claim: Claim) -> AsyncGenerator[list[Event], None]:
        yield [Started("scripted"), Delta(0, [1], "", None, FinishReason.STOP), Finished(3, 1, 2)]

    async with running_worker(valkey_url, script=nothing), running_api(valkey_url) as api:
        response = await create(api)
        exact(response)
        assert (response.status, response.output_text, len(response.output)) == ("completed", "", 1)
        assert response.usage is not None
        assert response.usage.input_tokens_details.cached_tokens == 2
