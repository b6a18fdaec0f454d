"""The openai SDK: every feature of chat and text completions as a program uses it."""

import asyncio
from typing import Any, Literal

import openai
import pytest
from fleet import ApiProcess
from openai import OpenAI
from pydantic import BaseModel, Field

MODEL = "simulated"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "seed": 5}
COMPLETE: dict[str, Any] = {"model": MODEL, "prompt": "hello", "max_tokens": 12, "seed": 5}


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int = Field(ge=10, le=99)


@pytest.fixture
def client(node: ApiProcess) -> OpenAI:
    return node.client()


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    listed = [model for model in client.models.list() if model.id == MODEL]
    assert listed == [client.models.retrieve(MODEL)]
    assert (listed[0].object, type(listed[0].created), bool(listed[0].owned_by)) == ("model", int, True)
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such-model")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_chat_answers_whole_and_streamed_alike(client: OpenAI) -> None:
    whole = client.chat.completions.create(**ASK)
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    [choice] = whole.choices
    assert (choice.message.role, choice.message.refusal, choice.finish_reason) == ("assistant", None, "length")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == choice.message.content
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, whole.usage.total_tokens) == (12, whole.usage.prompt_tokens + 12)
    assert {(chunk.object, chunk.model, chunk.usage) for chunk in chunks[:-1]} == {
        ("chat.completion.chunk", MODEL, None)
    }


def test_the_streaming_helper_builds_the_whole_answer(client: OpenAI) -> None:
    wish = ASK | {"n": 2, "logprobs": True, "top_logprobs": 2, "max_tokens": None}
    whole = client.chat.completions.create(**wish)
    with client.chat.completions.stream(**wish, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert kinds >= {"chunk", "content.delta", "content.done", "logprobs.content.delta", "logprobs.content.done"}
    assert final.usage == whole.usage
    for got, due in zip(final.choices, whole.choices, strict=True):
        assert (got.index, got.message.content, got.finish_reason) == (
            due.index,
            due.message.content,
            due.finish_reason,
        )
        assert got.logprobs is not None
        assert due.logprobs is not None
        assert got.logprobs.content == due.logprobs.content


def test_logprobs_come_for_each_token_with_bytes(client: OpenAI) -> None:
    [choice] = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=3).choices
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert all(bytes(entry.bytes or ()).decode() == entry.token for entry in entries)
    assert [len(entry.top_logprobs) for entry in entries] == [3] * 12
    [plain] = client.chat.completions.create(**ASK).choices
    assert plain.logprobs is None


def test_a_completion_answers_whole_and_streamed_alike(client: OpenAI) -> None:
    wish = COMPLETE | {"prompt": ["hello", "bye"], "n": 2, "echo": True, "logprobs": 2}
    whole = client.completions.create(**wish)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert [choice.text.split()[0] for choice in whole.choices] == ["hello", "hello", "bye", "bye"]
    texts, tokens = [""] * 4, [[] for _ in range(4)]  # type: list[str], list[list[str]]
    for chunk in client.completions.create(**wish, stream=True):
        [part] = chunk.choices
        texts[part.index] += part.text
        tokens[part.index] += (part.logprobs.tokens or []) if part.logprobs else []
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices if choice.logprobs]


def test_stop_strings_end_an_answer_before_them(client: OpenAI) -> None:
    text = client.chat.completions.create(**ASK).choices[0].message.content or ""
    stop = text[7:11]
    [choice] = client.chat.completions.create(**ASK, stop=[stop]).choices
    assert (choice.message.content, choice.finish_reason) == (text[: text.index(stop)], "stop")
    assert choice.model_extra == {"stop_reason": stop, "token_ids": None}
    [kept] = client.chat.completions.create(
        **ASK, stop=stop, extra_body={"include_stop_str_in_output": True, "min_tokens": 1}
    ).choices
    assert kept.message.content == text[: text.index(stop) + len(stop)]


def test_seeds_repeat_and_choices_differ(client: OpenAI) -> None:
    [one, two] = client.chat.completions.create(**ASK, n=2).choices
    again = client.chat.completions.create(**ASK).choices[0].message.content
    assert one.message.content == again != two.message.content
    other = client.chat.completions.create(**ASK | {"seed": 6}).choices[0].message.content
    assert other != again


def test_raw_and_streamed_responses_show_headers(client: OpenAI) -> None:
    named = {"X-Request-Id": "ticket-7"}
    raw = client.chat.completions.with_raw_response.create(**ASK, extra_headers=named)
    assert raw.request_id == "ticket-7"
    assert raw.parse()._request_id == "ticket-7"
    assert raw.parse().id.startswith("chatcmpl-ticket-7")
    with client.completions.with_streaming_response.create(**COMPLETE, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-headrace-request-id"]
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_unknown_fields_are_named_in_a_header(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK, extra_body={"guided_mood": "glad"})
    assert raw.headers["x-headrace-unknown-fields"] == "guided_mood"


def test_a_repeated_idempotency_key_gets_the_first_answer(client: OpenAI) -> None:
    wish = {key: value for key, value in ASK.items() if key != "seed"}
    once = {"extra_headers": {"Idempotency-Key": "clients-once"}}
    first = client.chat.completions.create(**wish, **once)
    assert client.chat.completions.create(**wish, **once) == first
    assert client.chat.completions.create(**wish).choices != first.choices
    with pytest.raises(openai.ConflictError):
        client.chat.completions.create(**wish, **once, temperature=0.5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"seed": 2**63}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "user", "content": "long " * 9000}]}, "messages"),
    ],
)
def test_a_bad_request_is_raised_with_its_parameter(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK | fields)
    assert (caught.value.status_code, caught.value.param) == (400, param)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id
    assert param in caught.value.message or caught.value.code == "context_length_exceeded"


def test_a_model_that_is_not_served_is_not_found(client: OpenAI) -> None:
    for create in (client.chat.completions.create, client.completions.create):
        with pytest.raises(openai.NotFoundError, match="'simulated'"):
            create(**(ASK if create == client.chat.completions.create else COMPLETE) | {"model": "gpt-4"})


def test_parse_helpers_give_objects(client: OpenAI, following: str) -> None:
    wish = ASK | {"model": following, "max_tokens": 200, "response_format": Pet}
    parsed = client.chat.completions.parse(**wish)
    pet = parsed.choices[0].message.parsed
    assert isinstance(pet, Pet)
    with client.chat.completions.stream(**wish) as stream:
        events = [event for event in stream if event.type == "content.done"]
        assert stream.get_final_completion().choices[0].message.parsed == pet
    assert [event.parsed for event in events] == [pet]
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**wish | {"max_tokens": 2})


def test_every_form_of_constraint_is_followed(client: OpenAI, following: str) -> None:
    def ask(**extra: Any) -> str:
        wish = ASK | {"model": following, "max_tokens": 200, "extra_body": extra}
        return client.chat.completions.create(**wish).choices[0].message.content or ""

    assert Pet.model_validate_json(ask(guided_json=Pet.model_json_schema()))
    assert Pet.model_validate_json(ask(structured_outputs={"json": Pet.model_json_schema()}))
    assert ask(guided_choice=["yes", "no"]) in ("yes", "no")
    assert len(ask(guided_regex="[0-9]{5}")) == 5
    assert ask(guided_grammar='root ::= "a" "b"') == "ab"
    with pytest.raises(openai.BadRequestError, match="guided_regex"):
        ask(guided_regex="(")


async def test_async_clients_ask_side_by_side(node: ApiProcess) -> None:
    async with node.async_client() as client:

        async def one(seed: int) -> tuple[str, str]:
            wish = ASK | {"seed": seed}
            whole, stream = await asyncio.gather(
                client.chat.completions.create(**wish), client.chat.completions.create(**wish, stream=True)
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return text, whole.choices[0].message.content or ""

        answers = await asyncio.gather(*(one(seed) for seed in range(16)))
    assert all(streamed == whole for streamed, whole in answers)
    assert len({text for text, _ in answers}) == 16


def test_leaving_a_stream_early_closes_it(client: OpenAI) -> None:
    with client.chat.completions.create(**ASK | {"max_tokens": 4000}, stream=True) as stream:
        assert next(iter(stream)).choices[0].delta.role == "assistant"
    assert client.chat.completions.create(**ASK).choices
