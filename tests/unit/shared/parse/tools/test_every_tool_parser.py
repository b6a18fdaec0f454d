"""What holds for the parser of every family: nothing depends on how an answer is cut, and nothing gets lost."""

import json
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tool_calls import (
    CUTS,
    FAMILIES,
    GARBAGE,
    Call,
    calls_of,
    cut,
    damaged,
    events,
    joined,
    told,
    tools_of,
    typed_alike,
)

from headrace_shared.parse.tools.families import ALIASES
from headrace_shared.parse.tools.forced import NamedCallParser, required_calls
from headrace_shared.parse.tools.parser import CallStart, Content, ToolParser
from headrace_shared.parse.tools.registry import tool_parser, tool_parser_names
from headrace_shared.parse.tools.tool import Tool

TOOLS = [Tool("f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})]
PARSERS: dict[str, Callable[[], ToolParser]] = {
    **{name: lambda name=name: _parser(name) for name in sorted(set(tool_parser_names()) - ALIASES.keys())},
    "required": required_calls,
    "named": lambda: NamedCallParser("f"),
}
every_parser = pytest.mark.parametrize("name", PARSERS)
every_family = pytest.mark.parametrize("name", FAMILIES)
quick = settings(max_examples=10, deadline=None)


def _parser(name: str, tools: list[Tool] = TOOLS) -> ToolParser:
    return tool_parser(name.split()[0]).factory(tools, "")


def test_every_family_has_a_renderer() -> None:
    assert {name.split()[0] for name in FAMILIES} == set(tool_parser_names()) - ALIASES.keys()


@every_parser
@given(text=GARBAGE, cuts=CUTS)
@quick
def test_pieces_of_any_text_do_not_depend_on_its_cuts(name: str, text: str, cuts: list[int]) -> None:
    _told_alike(PARSERS[name], text, cuts)


@every_family
@given(data=st.data(), cuts=CUTS)
@quick
def test_pieces_of_damaged_calls_do_not_depend_on_their_cuts(name: str, data: st.DataObject, cuts: list[int]) -> None:
    _told_alike(lambda: _parser(name), data.draw(damaged(FAMILIES[name])), cuts)


def _told_alike(make: Callable[[], ToolParser], text: str, cuts: list[int]) -> None:
    whole = joined(events(make(), [text]))
    assert joined(events(make(), list(text))) == whole
    assert joined(events(make(), cut(text, cuts))) == whole
    if not any(isinstance(piece, CallStart) for piece in whole):
        assert "".join(piece.text for piece in whole if isinstance(piece, Content)) == text


@every_family
@given(data=st.data(), cuts=CUTS)
@quick
def test_calls_come_out_as_they_were_written(name: str, data: st.DataObject, cuts: list[int]) -> None:
    family = FAMILIES[name]
    calls: list[Call] = data.draw(calls_of(family))
    assume(family.values != "text" or typed_alike(calls))
    text = family.write(calls)
    for pieces in ([text], list(text), cut(text, cuts)):
        answer = told(_parser(name, tools_of(calls)), pieces)
        assert answer.calls == calls
        assert answer.content == ""


@every_family
@given(data=st.data(), at=st.integers(0, 10_000))
@quick
def test_an_answer_cut_off_keeps_the_arguments_it_has_got(name: str, data: st.DataObject, at: int) -> None:
    family = FAMILIES[name]
    calls: list[Call] = data.draw(calls_of(family))
    text = family.write(calls)
    whole = told(_parser(name), [text])
    part = told(_parser(name), [text[: at % (len(text) + 1)]])
    assert part.names == whole.names[: len(part.names)]
    for some, all_ in zip(part.arguments, whole.arguments, strict=False):
        assert all_.startswith(some)
    assert part.arguments[:-1] == whole.arguments[: max(0, len(part.arguments) - 1)]


@pytest.mark.parametrize("name", sorted(PARSERS.keys() - {"named"}))
@given(text=st.text(alphabet=st.characters(exclude_characters="<[{`"), max_size=60), cuts=CUTS)
@quick
def test_text_without_calls_is_the_content(name: str, text: str, cuts: list[int]) -> None:
    answer = told(PARSERS[name](), cut(text, cuts))
    assert (answer.content, answer.names) == (text, [])


@every_family
@given(before=st.sampled_from(["", "I look.\n\n", "So "]), after=st.sampled_from(["", " Done.", "\nDone"]))
@quick
def test_text_around_calls_is_content_and_white_space_next_to_them_is_not(name: str, before: str, after: str) -> None:
    if name in ("pythonic", "xlam", "llama4_pythonic"):
        before = ""  # without a marker, calls stand at the answer's beginning
    text = before + FAMILIES[name].write([Call("f", {"a": 1}), Call("now", {})]) + after
    answer = told(_parser(name), list(text))
    assert answer.content == before + after
    assert answer.calls == [Call("f", {"a": 1}), Call("now", {})]


@every_family
def test_a_call_without_arguments_has_an_empty_object(name: str) -> None:
    text = FAMILIES[name].write([Call("now", {})])
    assert told(_parser(name), list(text)).arguments == ["{}"]


@every_family
def test_json_arguments_are_told_while_they_are_generated(name: str) -> None:
    family = FAMILIES[name]
    text = family.write([Call("f", {"text": "x" * 50})])
    place = text.index("x" * 50) + 30
    parser = _parser(name)
    early = "".join(getattr(piece, "text", "") for piece in parser.feed(text[:place]))
    if family.values == "json":
        assert early == json.dumps({"text": "x" * 50})[: len('{"text": "') + 30]
    else:
        assert early == "{"
        assert json.loads(early + "".join(getattr(piece, "text", "") for piece in parser.feed(text[place:])))
