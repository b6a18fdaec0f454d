"""A whole answer taken apart: thoughts, calls, content and special tokens, however its text is cut."""

import re
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headrace_shared.parse.message import MessageParser, MessagePiece
from headrace_shared.parse.reasoning import Reasoning, reasoning_parser
from headrace_shared.parse.special_tokens import SpecialTokenFilter, SpecialTokens
from headrace_shared.parse.tools.parser import CallArguments, CallStart, Content
from headrace_shared.parse.tools.registry import tool_parser

SPECIAL = SpecialTokens(["<s>", "</s>", "<|end|>", "<|end|>ing", ""])
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "<s>"}}\n</tool_call>'
PARTS = st.sampled_from(
    ["<think>", "</think>", CALL, "<tool_call>", "<s>", "</s>", "<|end|>", "<|en", "<", "s>", " ", "a", "\n", "hm"]
)
TEXTS = st.lists(PARTS, max_size=12).map("".join)
CUTS = st.lists(st.integers(0, 200), max_size=8)


def parser(most_calls: int | None = None) -> MessageParser:
    thoughts, calls = reasoning_parser("qwen3").factory(""), tool_parser("hermes").factory([], "")
    return MessageParser(thoughts, calls, SPECIAL, most_calls)


def cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in cuts)})
    return [text[begin:end] for begin, end in pairwise(places)]


def read(pieces: Iterable[str], most_calls: int | None = None) -> list[MessagePiece]:
    """With neighbours of one kind made one."""
    reader = parser(most_calls)
    found: list[MessagePiece] = []
    for piece in [*(piece for text in pieces for piece in reader.feed(text)), *reader.finish()]:
        match found[-1] if found else None, piece:
            case Content(before), Content(text):
                found[-1] = Content(before + text)
            case Reasoning(before), Reasoning(text):
                found[-1] = Reasoning(before + text)
            case CallArguments(index, before), CallArguments(_, text):
                found[-1] = CallArguments(index, before + text)
            case _:
                found.append(piece)
    return found


def test_each_part_is_told_as_what_it_is() -> None:
    assert read([f"<think>h<s>m</think>Let me<|end|> see.\n{CALL}</s>"]) == [
        Reasoning("hm"),
        Content("Let me see.\n"),
        CallStart(0, "f"),
        CallArguments(0, '{"a": "<s>"}'),
    ]


def test_calls_after_the_wanted_ones_are_dropped() -> None:
    pieces = read([CALL + CALL + "and"], most_calls=1)
    assert [piece for piece in pieces if isinstance(piece, CallStart)] == [CallStart(0, "f")]
    assert pieces[-1] == Content("and")
    assert read([CALL + "and"], most_calls=0) == [Content("and")]


@given(TEXTS, CUTS)
def test_nothing_depends_on_how_the_text_is_cut(text: str, cuts: list[int]) -> None:
    whole = read([text])
    assert read(list(text)) == whole
    assert read(cut(text, cuts)) == whole


@given(TEXTS, CUTS)
def test_special_tokens_are_taken_out_and_nothing_else_is(text: str, cuts: list[int]) -> None:
    """What stood around one may spell another when it is gone: text that the model has written."""
    filter_ = SpecialTokenFilter(SPECIAL)
    shown = [filter_.feed(piece) for piece in cut(text, cuts)]
    assert "".join([*shown, filter_.finish()]) == re.sub(r"<s>|</s>|<\|end\|>(ing)?", "", text)
