from copy import deepcopy
from typing import Any

import pytest

from headrace_api.prompt.messages import normalise
from headrace_shared.errors import InvalidRequestError

Message = dict[str, Any]


def one(message: Message, **options: Any) -> Message:
    (normal,) = normalise([message], options.pop("content_format", "string"), **options)
    return normal


def call(arguments: Any) -> Message:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


TWO_PARTS = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}


def test_text_parts_join_with_a_newline_where_the_template_wants_a_string() -> None:
    assert one(TWO_PARTS)["content"] == "one\ntwo"


def test_parts_stay_a_list_where_the_template_wants_one() -> None:
    assert one(TWO_PARTS, content_format="openai")["content"] == TWO_PARTS["content"]


def test_a_string_becomes_one_part_where_the_template_wants_a_list() -> None:
    normal = one({"role": "user", "content": "hi"}, content_format="openai")
    assert normal["content"] == [{"type": "text", "text": "hi"}]


@pytest.mark.parametrize(
    "part",
    [
        "hi",
        {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
        {"type": "input_text", "text": "hi"},
        {"type": "output_text", "text": "hi"},
        {"type": "refusal", "refusal": "hi"},
    ],
)
@pytest.mark.parametrize("content_format", ["string", "openai"])
def test_every_kind_of_text_part_is_text(part: Any, content_format: str) -> None:
    normal = one({"role": "assistant", "content": [part]}, content_format=content_format)
    assert normal["content"] == ("hi" if content_format == "string" else [{"type": "text", "text": "hi"}])


@pytest.mark.parametrize("message", [{"role": "assistant"}, {"role": "assistant", "content": None}])
@pytest.mark.parametrize("content_format", ["string", "openai"])
def test_missing_content_is_empty_content(message: Message, content_format: str) -> None:
    assert one(message, content_format=content_format)["content"] == ("" if content_format == "string" else [])


@pytest.mark.parametrize("kind", ["image_url", "input_image", "input_audio", "audio_url", "video_url", "file"])
def test_media_is_refused_and_the_part_is_named(kind: str) -> None:
    messages: list[Message] = [
        {"role": "system", "content": "x"},
        {"role": "user", "content": ["look", {"type": kind, kind: {}}]},
    ]
    with pytest.raises(InvalidRequestError, match="this model takes text only") as refused:
        normalise(messages, "string")
    assert refused.value.param == "messages[1].content[1]"


@pytest.mark.parametrize(
    "part",
    [{"type": "smell"}, {"text": "no type"}, {"type": "text"}, {"type": "text", "text": 5}, {"type": []}, 5, None],
)
def test_a_part_that_is_no_part_is_refused_and_named(part: Any) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        one({"role": "user", "content": [part]})
    assert refused.value.param == "messages[0].content[0]"


def test_content_that_is_neither_string_nor_list_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        one({"role": "user", "content": {"type": "text", "text": "x"}})
    assert refused.value.param == "messages[0].content"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": [1, {"b": "é"}]}', {"a": [1, {"b": "é"}]}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ('{"cut": "sho', '{"cut": "sho'),
        ("[1]", "[1]"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_arguments_of_a_tool_call_become_an_object_where_they_are_one(arguments: Any, expected: Any) -> None:
    assert one(call(arguments))["tool_calls"][0]["function"] == {"name": "f", "arguments": expected}


def test_other_kinds_of_tool_calls_pass() -> None:
    calls = [{"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}}]
    assert one({"role": "assistant", "tool_calls": calls})["tool_calls"] == calls


@pytest.mark.parametrize(("knows_developer", "role"), [(False, "system"), (True, "developer")])
def test_a_developer_is_a_system_to_a_template_that_does_not_know_it(knows_developer: bool, role: str) -> None:
    assert one({"role": "developer", "content": "x"}, knows_developer=knows_developer)["role"] == role


def test_roles_and_fields_of_their_own_pass() -> None:
    message = {"role": "narrator", "content": "x", "name": "Ada", "mood": {"calm": True}}
    assert one(message) == message


def test_the_given_messages_stay_as_they_are() -> None:
    messages = [TWO_PARTS, call('{"a": 1}'), {"role": "developer", "content": "x"}]
    before = deepcopy(messages)
    normalise(messages, "openai")
    assert messages == before
