"""What is reasoning and what is answer, in the form of each family of models."""

import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_shared.parse.reasoning import (
    Answer,
    Piece,
    Reasoning,
    ReasoningParser,
    detect_reasoning_parser,
    reasoning_parser,
    reasoning_parser_names,
)

CALL = '<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 2}<|call|>'

# Family, end of the prompt, raw answer, reasoning, answer.
ANSWERS = [
    ("deepseek_r1", "", "<think>\nhm\n</think>\n\n4", "\nhm\n", "\n\n4"),
    ("deepseek_r1", "", "hm</think>4", "hm", "4"),
    ("deepseek_r1", "", "hm", "hm", ""),
    ("deepseek_r1", "<\uff5cAssistant\uff5c><think>\n", "hm</think>4</think>", "hm", "4</think>"),
    ("deepseek_r1", "", "hm</thin", "hm</thin", ""),
    ("deepseek_r1", "", "", "", ""),
    ("deepseek_v3", "<\uff5cAssistant\uff5c><think>", "hm</think>4", "hm", "4"),
    ("deepseek_v3", "<\uff5cAssistant\uff5c></think>", "4", "", "4"),
    ("qwen3", "<|im_start|>assistant\n", "<think>\nhm\n</think>\n\n4", "\nhm\n", "\n\n4"),
    ("qwen3", "<|im_start|>assistant\n", "4 <think>", "", "4 <think>"),
    ("qwen3", "<|im_start|>assistant\n<think>\n", "hm\n</think>\n\n4", "hm\n", "\n\n4"),
    ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "<think>4", "", "<think>4"),
    ("qwen3", "<think>\n", "a <tool_call> is\n<tool_call>\n<function=f>", "a <tool_call> is\n", "<tool_call>\n<function=f>"),
    ("granite", "", "Here is my thought process: hm Here is my response: 4", " hm ", " 4"),
    ("granite", "", "Here's my thought process:hm Here is my idea. Here's my response:4", "hm Here is my idea. ", "4"),
    ("granite", "", "Here is my answer: 4", "", "Here is my answer: 4"),
    ("glm45", "<|assistant|>", "\n<think>hm</think>\n4", "hm", "\n4"),
    ("glm45", "<|assistant|>\n<think></think>\n", "4", "", "4"),
    ("hunyuan_a13b", "", "<think>\nhm\n</think>\n<answer>\n4\n</answer>", "hm", "4"),
    ("hunyuan_a13b", "<think>\n\n</think>\n", "<answer>\n4\n5\n</answer>\n", "", "4\n5"),
    ("hunyuan_a13b", "", "4", "", "4"),
    ("ernie45", "<think>\n", "hm\n</think>\n\n<response>\n4\n</response>\n", "hm", "4"),
    ("ernie45", "<think>\n", "hm\n</think>\n4", "hm", "4"),
    ("ernie45", "<think>\n", "hm\n</think>\n\n<response>\n4", "hm", "4"),
    ("mistral", "[/INST]", "[THINK]hm[/THINK]4", "hm", "4"),
    ("mistral", "[/INST]", "4[/THINK]", "", "4[/THINK]"),
    ("step3", "<think>\n", "hm</think>4", "hm", "4"),
    ("olmo3", "<think>", "hm</think>4", "hm", "4"),
    ("kimi_k2", "", "<think>hm</think>4", "hm", "4"),
    ("kimi_k2", "", "hm<|tool_calls_section_begin|>f", "hm", "<|tool_calls_section_begin|>f"),
    ("minimax_m2", "]~b]ai\n<think>\n", "hm\n</think>\n\n4", "hm\n", "\n\n4"),
    ("seed_oss", "", "<seed:think>hm</seed:think>4", "hm", "4"),
    (
        "gpt-oss",
        "<|start|>assistant",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
        "hm",
        "4",
    ),
    ("openai_gptoss", "", "<|channel|>analysis<|message|>hm<|end|>" + CALL, "hm", CALL),
    ("openai_gptoss", "", "<|channel|>commentary<|message|>I add.<|end|>" + CALL, "", "I add." + CALL),
    ("openai_gptoss", "<|start|>assistant", " to=functions.f<|channel|>commentary<|message|>{}<|call|>", "",
     " to=functions.f<|channel|>commentary<|message|>{}<|call|>"),
    ("openai_gptoss", "<|start|>assistant<|channel|>analysis<|message|>h", "m<|end|>", "m", ""),
    ("openai_gptoss", "", "<|channel|>final <|constrain|>json<|message|>{}", "", "{}"),
    ("openai_gptoss", "", "<|channel|>analysis<|message|>hm<|channel|>final<|message|>4", "hm", "4"),
    ("openai_gptoss", "", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final", "hm", ""),
    ("openai_gptoss", "", "4", "", "4"),
    ("openai_gptoss", "", "<|start|>assistant 4<|end|>5", "", "<|start|>assistant 4<|end|>5"),
    ("openai_gptoss", "", "<|channel|>" + "x" * 400, "", "<|channel|>" + "x" * 400),
]  # fmt: skip
MARKERS = [
    *("<think>", "</think>", "<answer>", "</answer>", "<response>", "</response>", "\n", " ", "a", "<", "4", "\u00e9"),
    *("[THINK]", "[/THINK]", "<seed:think>", "</seed:think>", "<tool_call>\n<function=", "to=f"),
    *("Here is my thought process:", "Here's my response:", "Here is my response:", "x" * 120),
    *("<|start|>", "assistant", "<|channel|>", "analysis", "final", "<|message|>", "<|end|>", "<|call|>", "<|re"),
]
GARBAGE = st.lists(st.sampled_from(MARKERS) | st.text(max_size=3)).map("".join)
TAILS = st.sampled_from(["", "<think>\n", "</think>", "<|start|>assistant", "<|start|>assistant<|channel|>analysis"])


def parsed(parser: ReasoningParser, texts: Iterable[str]) -> tuple[str, str]:
    pieces: list[Piece] = [piece for text in texts for piece in parser.feed(text)]
    pieces += parser.finish()
    assert all(piece.text for piece in pieces)
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    return reasoning, "".join(piece.text for piece in pieces if isinstance(piece, Answer))


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(("name", "tail", "raw", "reasoning", "answer"), ANSWERS)
def test_an_answer_is_told_apart_from_its_reasoning(
    name: str, tail: str, raw: str, reasoning: str, answer: str
) -> None:
    kind = reasoning_parser(name)
    assert parsed(kind.factory(tail), [raw]) == (reasoning, answer)
    assert parsed(kind.factory(tail), raw) == (reasoning, answer)


@given(st.sampled_from(reasoning_parser_names()), TAILS, GARBAGE, st.data())
def test_how_the_text_is_cut_makes_no_difference(name: str, tail: str, raw: str, data: st.DataObject) -> None:
    kind = reasoning_parser(name)
    assert parsed(kind.factory(tail), cut(raw, data)) == parsed(kind.factory(tail), [raw])


@given(
    st.sampled_from(reasoning_parser_names()),
    st.sampled_from(["", "<think>\n", "</think>", "<|start|>assistant"]),
    st.text(st.characters(exclude_characters="\n<[H")),
)
def test_text_that_begins_no_marker_comes_out_at_once(name: str, tail: str, raw: str) -> None:
    parser = reasoning_parser(name).factory(tail)
    assert "".join(piece.text for piece in parser.feed("." + raw)) == "." + raw
    assert parser.finish() == []


@given(st.sampled_from(reasoning_parser_names()), TAILS, GARBAGE)
def test_of_garbage_nothing_is_lost_but_markers(name: str, tail: str, raw: str) -> None:
    parser = reasoning_parser(name).factory(tail)
    whole = "".join(piece.text for piece in [*parser.feed(raw), *parser.finish()])
    in_no_marker = re.compile("[4x\u00e9]")
    assert in_no_marker.findall(whole) == in_no_marker.findall(raw)


def test_only_what_may_begin_a_marker_is_held_back() -> None:
    parser = reasoning_parser("deepseek_r1").factory("")
    assert parser.feed("a < b </th") == [Reasoning("a < b ")]
    assert parser.feed("at") == [Reasoning("</that")]
    assert parser.feed("</think>c</think") == [Answer("c</think")]
    assert parser.finish() == []


def test_a_parser_tells_whether_the_model_still_thinks() -> None:
    parser = reasoning_parser("qwen3").factory("")
    told = [parser.thinking]
    for text in ("<think>", "hm", "</think>", "4"):
        parser.feed(text)
        told.append(parser.thinking)
    assert told == [False, True, True, False, False]

    parser = reasoning_parser("gpt-oss").factory("<|start|>assistant")
    told = [parser.thinking]
    for text in ("<|channel|>analysis<|message|>hm", "<|end|><|start|>assistant<|channel|>final", "<|message|>"):
        parser.feed(text)
        told.append(parser.thinking)
    assert told == [True, True, True, False]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}", "qwen3"),
        ("{{ '<\uff5cAssistant\uff5c><think>\n' }}{{ content.split('</think>') }}", "deepseek_r1"),
        ("{% if not thinking %}{{ '<\uff5cAssistant\uff5c></think>' }}{% endif %}", "deepseek_v3"),
        ("[gMASK]<sop>{{ '\n<think></think>' }}", "glm45"),
        ("<|start|>assistant<|channel|>final<|message|>", "openai_gptoss"),
        ("[SYSTEM_PROMPT][THINK][/THINK]", "mistral"),
        ("<|im_start|>assistant\n", None),
    ],
)
def test_a_chat_template_tells_its_family(template: str, name: str | None) -> None:
    kind = detect_reasoning_parser(template)
    assert (kind.name if kind else None) == name


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        reasoning_parser("nobody")
