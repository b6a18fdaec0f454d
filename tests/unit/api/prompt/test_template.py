import contextlib
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
from chat_templates import TEMPLATES
from hypothesis import given
from hypothesis import strategies as st

from headrace_api.prompt import template as template_module
from headrace_api.prompt.messages import normalise
from headrace_api.prompt.template import ChatTemplate
from headrace_shared.errors import InvalidRequestError

USER = [{"role": "user", "content": "hi"}]
PREFILL = [*USER, {"role": "assistant", "content": "Once upon "}]


def render(source: str, messages: Any = None, **options: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages or USER, **options)


def refusal(source: str, messages: Any = None, **options: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as refused:
        render(source, messages, **options)
    return refused.value


@pytest.mark.parametrize("source", ["{% for m in messages %}", "{{ 1 +", "{% nonsense %}", "{% break %}", "{{ x | nofilter }}", "{{ 1e999999999 // 1 }}\x00{{", "{% for a in b %}" * 30 + "{% endfor %}" * 30])  # fmt: skip
def test_a_source_that_is_no_template_is_refused_at_once(source: str) -> None:
    with pytest.raises(InvalidRequestError, match="chat template is not valid") as refused:
        ChatTemplate(source, {})
    assert refused.value.param == "chat_template"


_fragments = st.sampled_from(
    ["{%", "%}", "{{", "}}", "{#", "#}", "for", "in", "if", "else", "endfor", "endif", "set", "macro", "generation", "endgeneration",
     "messages", "content", "x", ".", "[", "]", "(", ")", "|", "tojson", "=", "+", "'", "0", "-", "*", "**", "%", "break", "include", "extends", "block"]
)  # fmt: skip


@given(st.lists(_fragments, max_size=24).map(" ".join))
def test_no_source_causes_more_than_a_refusal(source: str) -> None:
    with contextlib.suppress(InvalidRequestError):
        render(source)


def test_a_templates_own_complaint_is_the_message() -> None:
    refused = refusal("{{ raise_exception('Roles must alternate') }}")
    assert (refused.message, refused.param) == ("Roles must alternate", "messages")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[3].content }}",
        "{{ 'a' + 1 }}",
        "{{ 1 // 0 }}",
        "{{ messages[0]['content'].__class__.__subclasses__() }}",
        "{{ messages.clear() }}",
        "{{ {}.popitem() }}",
        "{{ 'x'.encode('latin-1').decode('utf-16') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ cycler }}{{ undefined() }}",
    ],
)
def test_a_template_that_fails_on_the_messages_is_the_clients_error(source: str) -> None:
    assert refusal(source).param == "messages"


def test_a_template_cannot_write_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "MAX_RENDERED_CHARS", 1000)
    assert "1000 characters" in refusal("{% for i in range(99999) %}xxxxxxxxx{% endfor %}").message


def test_no_messages_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="must not be empty"):
        ChatTemplate("x", {}).render([])


@pytest.mark.parametrize(
    "name", ["chat_template", "tokenize", "messages", "tools", "documents", "add_generation_prompt"]
)
def test_variables_that_would_change_the_request_are_refused(name: str) -> None:
    refused = refusal("{{ x }}", template_kwargs={name: 1})
    assert refused.param == "chat_template_kwargs"
    assert name in refused.message


def test_a_variable_that_the_template_does_not_read_is_dropped() -> None:
    assert render("{{ read }}", template_kwargs={"read": 1, "self": 2, "context": 3, "args": 4}) == "1"


def test_a_clients_variable_overrules_a_special_token() -> None:
    assert render("{{ bos_token }}") == "<s>"
    assert render("{{ bos_token }}", template_kwargs={"bos_token": "<t>"}) == "<t>"


def test_rendering_leaves_the_messages_alone() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}], "name": None, "reasoning": "r"},
    ]
    before = deepcopy(messages)
    render("{{ messages[0].content }}", messages, add_generation_prompt=False, continue_final_message=True)
    assert messages == before


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("text", ["Once upon", "Once upon ", "a\n\n"])
def test_a_continued_message_ends_the_prompt(name: str, text: str) -> None:
    template = ChatTemplate(TEMPLATES[name], {"bos_token": "<s>", "eos_token": "</s>"})
    messages = normalise([*USER, {"role": "assistant", "content": text}], template.content_format)
    prompt = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert prompt.endswith((text, text.rstrip()))
    assert "CONTINUE" not in prompt


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        ("{{ messages[0].content }}", PREFILL),
        ("{{ messages[-1].content | upper }}", PREFILL),
        ("{{ messages[-1].text }}", PREFILL),
        ("{{ messages[-1].content }}", [*USER, {"role": "assistant"}]),
        ("{{ messages[-1].content }}", [*USER, {"role": "assistant", "content": []}]),
    ],
)
def test_a_message_that_cannot_be_continued_is_refused(source: str, messages: Any) -> None:
    refused = refusal(source, messages, add_generation_prompt=False, continue_final_message=True)
    assert refused.param == "continue_final_message"


def test_a_reply_is_either_continued_or_opened() -> None:
    refused = refusal("{{ messages[-1].content }}", PREFILL, add_generation_prompt=True, continue_final_message=True)
    assert refused.param == "continue_final_message"


def test_a_template_says_whether_it_knows_developers() -> None:
    assert ChatTemplate("{{ messages[0].role == 'developer' }}", {}).knows_developer
    assert not ChatTemplate("{{ messages[0].role == 'system' }}", {}).knows_developer


def test_threads_may_share_a_template() -> None:
    template = ChatTemplate(TEMPLATES["qwen3"], {})
    chats = [[{"role": "user", "content": str(number)}] for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        prompts = list(pool.map(template.render, chats))
    assert prompts == [f"<|im_start|>user\n{number}<|im_end|>\n<|im_start|>assistant\n" for number in range(200)]
