"""The same messages, the same template: the same text as ``apply_chat_template``, or an error where it has one."""

import functools
import json
from datetime import datetime, tzinfo
from typing import Any

import pytest
from chat_templates import TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_families import tokenizer_json
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from headrace_api.prompt import sandbox
from headrace_api.prompt.template import ChatTemplate
from headrace_api.schemas.chat import ChatRequest
from headrace_shared.errors import InvalidRequestError

pytestmark = pytest.mark.slow

Message = dict[str, Any]
SPECIAL = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|pad|>"}
NOON_MS = 1_753_531_200_000
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather <b>now</b> & later, in 'Zürich'",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "名前"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                    "any": {},
                },
                "required": ["city"],
            },
        },
    }
]
DOCUMENTS = [{"title": "Kräne", "text": "Ein <Kran> hebt."}, {"title": "Two", "text": "x", "score": 0.5}]
USER = {"role": "user", "content": "  Was ist 2 + 2? <b>&</b> 🙂\n"}
REPLY = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nVier. "}
SYSTEM = {"role": "system", "content": " Be brief. "}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2], "a": None}},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": '{"sky": "klar"}'}
PARTS = {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": " two"}]}
CONVERSATIONS: dict[str, list[Message]] = {
    "one turn": [USER],
    "system": [SYSTEM, USER],
    "several turns": [SYSTEM, USER, REPLY, {"role": "user", "content": "And 3 + 3?"}],
    "no system, several turns": [USER, REPLY, USER],
    "late system": [USER, SYSTEM, USER],
    "reply last": [SYSTEM, USER, REPLY],
    "tool round": [SYSTEM, USER, CALL, RESULT, {"role": "assistant", "content": "Clear."}, USER],
    "tool result last": [USER, CALL, RESULT],
    "two results": [USER, CALL, RESULT, RESULT],
    "unknown role": [{"role": "narrator", "content": "Es war einmal"}, USER],
    "developer": [{"role": "developer", "content": "Be brief."}, USER],
    "reasoning": [USER, {**REPLY, "reasoning": "carry the one"}, USER, {**REPLY, "reasoning_content": "again"}],
    "break and continue": [USER, {"role": "skip", "content": "x"}, USER, {"role": "break", "content": "y"}, USER],
    "empty content": [{"role": "user", "content": ""}],
    "no content": [{"role": "user"}],
    "null content": [USER, {"role": "assistant", "content": None}],
    "parts": [PARTS],
    "parts and strings": [SYSTEM, PARTS, REPLY, PARTS],
    "named": [{"role": "user", "name": "Ada", "content": "hi"}],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "reply opened": {"add_generation_prompt": True},
    "reply not opened": {"add_generation_prompt": False},
    "continued": {"add_generation_prompt": False, "continue_final_message": True},
    "tools": {"add_generation_prompt": True, "tools": TOOLS},
    "documents": {"add_generation_prompt": True, "documents": DOCUMENTS},
}


@functools.cache
def reference() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer_json("llama3").decode()), **SPECIAL)


@functools.cache
def ours(name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[name], SPECIAL)


class Noon(datetime):
    """One time for both, else a test near midnight could see two dates."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Noon":
        return cls.fromtimestamp(NOON_MS / 1000, tz)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "wall_ms", lambda: NOON_MS)
    monkeypatch.setattr(chat_template_utils, "datetime", Noon)


def theirs(source: str, messages: list[Message], **options: Any) -> str | None:
    """None: transformers, or the template, refuses."""
    try:
        text: str = reference().apply_chat_template(messages, chat_template=source, tokenize=False, **options)
    except Exception:  # noqa: BLE001 - whatever goes wrong there has to be one kind of error here
        return None
    return text


def expected(name: str, messages: list[Message], variables: dict[str, Any], options: dict[str, Any]) -> str | None:
    return theirs(TEMPLATES[name], messages, **options, **variables)


def rendered(name: str, messages: list[Message], variables: dict[str, Any], options: dict[str, Any]) -> str | None:
    try:
        return ours(name).render(messages, template_kwargs=variables, **options)
    except InvalidRequestError:
        return None


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_conversation_renders_as_in_transformers(name: str, conversation: str, option: str) -> None:
    messages = CONVERSATIONS[conversation]
    assert rendered(name, messages, {}, OPTIONS[option]) == expected(name, messages, {}, OPTIONS[option])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tools_of_a_request_render_as_in_transformers(name: str) -> None:
    sent = [{**tool, "function": {**tool["function"], "strict": True, "description": None}} for tool in TOOLS]
    plain = [{**tool, "function": {**tool["function"]}} for tool in TOOLS]
    for tool in plain:
        tool["function"].pop("description", None)
    body = ChatRequest.parse(json.dumps({"messages": [USER], "tools": sent}).encode())
    shown = [tool.for_template() for tool in body.tools or []]
    options = {"add_generation_prompt": True}
    assert rendered(name, [USER], {}, options | {"tools": shown}) == expected(
        name, [USER], {}, options | {"tools": plain}
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"enable_thinking": False},
        {"enable_thinking": True, "thinking": True},
        {"date_string": "1 Apr 2030"},
        {"bos_token": "<other>", "unused": {"a": [1]}},
    ],
)
@pytest.mark.parametrize("name", TEMPLATES)
def test_template_variables_render_as_in_transformers(name: str, variables: dict[str, Any]) -> None:
    for messages in (CONVERSATIONS["one turn"], CONVERSATIONS["several turns"]):
        options = {"add_generation_prompt": True}
        assert rendered(name, messages, variables, options) == expected(name, messages, variables, options)


_words = st.sampled_from(
    ["", " ", "\n", "a", "content", "é", "🙂", "</think>", "{{ x }}", "CONTINUE", "<|im_end|>", "\x00"]
)
_content = st.lists(_words, max_size=4).map("".join)
_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "x"])},
    optional={
        "content": _content
        | st.none()
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": _content}), max_size=2),
        "reasoning_content": _content,
        "thinking": _content,
        "name": st.none() | _content,
    },
)


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=st.lists(_message, min_size=1, max_size=4), option=st.sampled_from(list(OPTIONS)))
@settings(max_examples=40)
def test_any_messages_render_as_in_transformers(name: str, messages: list[Message], option: str) -> None:
    assert rendered(name, messages, {}, OPTIONS[option]) == expected(name, messages, {}, OPTIONS[option])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | tojson }}",
        "{{ messages | tojson(indent=2, sort_keys=true) }}",
        "{{ dict(a=1, **messages[0]) }} {{ dict.fromkeys('ab', 0) }}",
        "{{ dict.__class__ }}|{{ dict.mro() }}",
        "{% set ns = namespace(self=1, a='x') %}{{ ns.self }}{{ ns.a }}",
        "{% set ns = namespace(_x=1) %}{{ ns._x }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns._x }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{% for i in range(200000) %}{% endfor %}",
        "{{ strftime_now('%Y-%m-%d %H:%M|%Z|%z') }}",
        "{{ strftime_now(format='%Y') }}",
        "{{ raise_exception(message='no') }}",
        "{{ undefined_name.attribute }}",
        "{{ undefined_name }}|{{ messages[7] }}|{{ continue_final_message is defined }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} {{ unk_token is defined }}",
        "{% for m in messages -%}\n    {{ m.content }}\n{%- endfor %}\n\n",
        "  {% if true %}\n  x\n  {% endif %}\n",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{{ joiner }} {{ cycler('a').next() }} {{ lipsum(n=1) | length > 0 }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}content{% endcall %}",
        "{% trans %}x{% endtrans %}",
        "{{ 'a{b}'.format(b=1) }} {{ '%s' % 'x' }} {{ '{0.__class__}'.format(1) }}",
    ],
)
def test_every_construct_behaves_as_in_transformers(source: str) -> None:
    messages = [{"role": "user", "content": "a 'q' <é>"}]

    def here() -> str | None:
        try:
            return ChatTemplate(source, SPECIAL).render(messages, add_generation_prompt=True)
        except InvalidRequestError:
            return None

    there = theirs(source, messages, add_generation_prompt=True)
    if "__class__ }}" in source:  # prints an address
        assert (here() is None) == (there is None)
    else:
        assert here() == there
