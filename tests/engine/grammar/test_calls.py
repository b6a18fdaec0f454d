"""Calls that a model is forced to make, or held to when it makes them: in the form of every family, read back."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from constrained import ConstrainedEngine

from headrace_api.grammar.calls import forced_calls, strict_calls
from headrace_shared.parse.tools.families import KINDS
from headrace_shared.parse.tools.forced import NamedCallParser, required_calls
from headrace_shared.parse.tools.kind import ToolKind
from headrace_shared.parse.tools.parser import CallArguments, CallStart, Content, ToolParser
from headrace_shared.parse.tools.tool import Tool
from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec

BACKENDS = ("xgrammar", "guidance")
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}, "unit": {"enum": ["C", "F"]}},
    "required": ["days", "unit"],
    "additionalProperties": False,
}
LIGHT: dict[str, Any] = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "room": {"$ref": "#/$defs/room"}},
    "required": ["on", "room"],
    "additionalProperties": False,
    "$defs": {"room": {"enum": ["hall", "attic"]}},
}
TOOLS = [Tool("weather", parameters=WEATHER), Tool("set_light", parameters=LIGHT), Tool("now")]
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "set_light": LIGHT, "now": {"type": "object", "maxProperties": 0}}
FORMED = [kind for kind in KINDS if kind.form is not None]
SEEDS = range(4)


def read(parser: ToolParser, text: str) -> tuple[str, list[tuple[str, str]]]:
    """Content, and names and arguments of the calls."""
    content, calls = "", []
    for piece in [*(piece for char in text for piece in parser.feed(char)), *parser.finish()]:
        match piece:
            case Content(more):
                content += more
            case CallStart(_, name):
                calls.append((name, ""))
            case CallArguments(index, more):
                calls[index] = (calls[index][0], calls[index][1] + more)
    return content, calls


def answers(engine: ConstrainedEngine, spec: GrammarSpec) -> list[str]:
    asked = [engine.ask(grammar=spec, seed=seed, max_tokens=700) for seed in SEEDS]
    whole = [choice for [choice] in engine.run(asked)]
    ended = [choice.text for choice in whole if choice.finish_reason is FinishReason.STOP]
    assert ended, "every answer was cut off"
    return ended


def check(calls: Sequence[tuple[str, str]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize("kind", FORMED, ids=lambda kind: f"{kind.name}-{KINDS.index(kind)}")
def test_forced_calls_of_a_family_are_read_back(engine: ConstrainedEngine, kind: ToolKind) -> None:
    for parallel in (True, False):
        grammar = forced_calls("required", TOOLS, kind.form, BACKENDS, parallel=parallel)
        assert grammar.native
        for text in answers(engine, grammar.constraint.spec):
            content, calls = read(kind.factory(TOOLS, ""), text)
            assert content.strip() == ""
            assert calls
            assert parallel or len(calls) == 1
            check(calls)
    grammar = forced_calls("named", TOOLS[:1], kind.form, BACKENDS, parallel=True)
    for text in answers(engine, grammar.constraint.spec):
        _, [(name, arguments)] = read(kind.factory(TOOLS[:1], ""), text)
        assert name == "weather"
        jsonschema.validate(json.loads(arguments), WEATHER)


def test_forced_calls_without_a_form_are_json(engine: ConstrainedEngine) -> None:
    beyond = {**WEATHER, "properties": {**WEATHER["properties"], "unit": {"type": "string", "maxLength": 3}}}
    tools = [Tool("weather", parameters=beyond), *TOOLS[1:]]
    for form in (None, next(kind.form for kind in KINDS if kind.name == "hermes")):
        grammar = forced_calls("required", tools, form, BACKENDS, parallel=True)
        assert not grammar.native
        assert grammar.constraint.spec.kind is GrammarKind.JSON_SCHEMA
        for text in answers(engine, grammar.constraint.spec):
            _, calls = read(required_calls(), text)
            assert [{"name": name, "parameters": json.loads(arguments)} for name, arguments in calls] == json.loads(
                text
            )
            for name, arguments in calls:
                jsonschema.validate(json.loads(arguments), beyond if name == "weather" else SCHEMAS[name])
    grammar = forced_calls("named", TOOLS[:1], None, BACKENDS, parallel=True)
    for text in answers(engine, grammar.constraint.spec):
        jsonschema.validate(json.loads(text), WEATHER)
        assert read(NamedCallParser("weather"), text) == ("", [("weather", text)])


def test_strict_calls_are_held_to_their_schemas_once_they_begin(engine: ConstrainedEngine) -> None:
    kind = next(kind for kind in KINDS if kind.name == "hermes")
    tools = [Tool("weather", parameters=WEATHER, strict=True), Tool("now")]
    spec = strict_calls(dict(enumerate(tools)), kind.form, BACKENDS, parallel=False).spec
    begun = engine.tokenizer.encode("Let me see. <tool_call>", add_special_tokens=False)
    found = 0
    for seed in range(12):
        asked = engine.ask(grammar=spec, seed=seed, max_tokens=600)
        asked.resumed = {0: begun}
        [[answer]] = engine.run([asked])
        if answer.finish_reason is not FinishReason.STOP:
            continue
        content, [(name, arguments)] = read(kind.factory(tools, ""), answer.text)
        assert content == "Let me see. "
        if name == "weather":
            jsonschema.validate(json.loads(arguments), WEATHER)
            found += 1
    assert found


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_waits_only_for_thoughts_that_have_begun(engine: ConstrainedEngine, temperature: float) -> None:
    spec = GrammarSpec(GrammarKind.REGEX, "[0-9]{4}", after="</t>", unless_begun=("<t>", "[t]"))
    encode = engine.tokenizer.encode
    for begun, rest in (("", "[0-9]{4}"), ("<t>hm</t>", "[0-9]{4}"), ("[t", "\\].*"), (" <", "t>.*"), ("<t>hm", ".*")):
        asked = engine.ask(grammar=spec, temperature=temperature, max_tokens=40, seed=3)
        asked.resumed = {0: encode(begun, add_special_tokens=False)} if begun else None
        [[answer]] = engine.run([asked])
        said = answer.text.removeprefix(begun)
        assert re.match(rest, said, re.DOTALL), (begun, said)
    free = engine.ask(grammar=spec, temperature=temperature, max_tokens=40, seed=3)
    for start, end in (("<t>", "</t>"), ("[t]", "</t>")):
        asked = engine.ask(grammar=spec, temperature=temperature, max_tokens=40, seed=3)
        asked.resumed = {0: encode(start + " 12ab " + end, add_special_tokens=False)}
        [[answer]] = engine.run([asked])
        assert re.fullmatch("[0-9]{4}", answer.text.partition(end)[2])
    assert engine.run([free])[0][0].finish_reason is FinishReason.STOP


def test_thoughts_that_a_grammar_would_allow_are_none_of_it(engine: ConstrainedEngine) -> None:
    spec = GrammarSpec(GrammarKind.REGEX, "[<t>a-z]{6}", after="</t>", unless_begun=("<t>",))
    for begun, rest in (("<t>ABC</t>", "[<t>a-z]{6}"), ("<tt", "[<t>a-z]{3}"), ("<t", ".*"), ("ab", "[<t>a-z]{4}")):
        asked = engine.ask(grammar=spec, seed=3, max_tokens=60)
        asked.resumed = {0: engine.tokenizer.encode(begun, add_special_tokens=False)}
        [[answer]] = engine.run([asked])
        assert re.fullmatch(rest, answer.text.removeprefix(begun), re.DOTALL), (begun, answer.text)


def test_special_tokens_that_a_tag_spells_may_be_written(tmp_path: Path) -> None:
    engine = ConstrainedEngine(tmp_path, "qwen")
    name = next(token for token in engine.tokenizer.special_texts if engine.tokenizer.token_to_id(token) != engine.eos)
    token_id = engine.tokenizer.token_to_id(name)
    for begin, spelled in ((name, True), ("<other>", False)):
        format_ = {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": "!"}
        tag = json.dumps({"type": "structural_tag", "format": format_})
        matcher = engine.compiler.compile(GrammarSpec(GrammarKind.STRUCTURAL_TAG, tag)).result().matcher()
        bitmask = np.zeros((1, -(-engine.vocab_size // 32)), dtype=np.int32)
        matcher.fill(bitmask, 0)
        allowed = np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little")).tolist()
        assert (token_id in allowed) == spelled
    engine.compiler.close()
