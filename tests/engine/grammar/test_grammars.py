"""Grammars beside everything else that a request can ask for."""

import json
import re
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from constrained import Answered, Asked, ConstrainedEngine, spec_of

from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind, GrammarSpec
from headrace_shared.protocol.sampling import ThinkingSpec
from headrace_worker.execute.grammar import automaton, installed
from headrace_worker.execute.grammar.backend import GrammarError
from headrace_worker.execute.grammar.compiler import GrammarCompiler
from headrace_worker.execute.grammar.vocabulary import Vocabulary

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[a-z]{1,9}$"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
GBNF = 'root ::= "(" sum ")"\nsum ::= [0-9] | [0-9] "+" sum\n'
LARK = 'start: "(" sum ")"\nsum: /[0-9]/ | /[0-9]/ "+" sum\n'
SEEDS = range(8)
ALL = ("xgrammar", "guidance", "outlines", "lm-format-enforcer")


def schema_for(backend: str) -> dict[str, Any]:
    """PERSON as far as the backend enforces it."""
    age = PERSON["properties"]["age"] if backend in ("auto", "xgrammar", "guidance") else {"type": "integer"}
    return {**PERSON, "properties": {**PERSON["properties"], "age": age}}


def only(answers: list[list[Answered]]) -> list[str]:
    """The texts of requests with one choice each, all of which ended by themselves."""
    assert all(answer.finish_reason is FinishReason.STOP for [answer] in answers)
    return [answer.text for [answer] in answers]


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("pattern", ["^[0-9]{3}-[0-9]{4}$", "(red|green) (cat|dog)s?", "[A-Z][a-z]{2,5}", "é{2,3}☃"])
def test_an_answer_matches_its_regular_expression(engine: ConstrainedEngine, pattern: str, backend: str) -> None:
    spec = spec_of(guided_regex=pattern, guided_decoding_backend=backend)
    assert spec.backend == backend
    for text in only(engine.run([engine.ask(grammar=spec, seed=seed) for seed in SEEDS])):
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("backend", ALL)
def test_an_answer_is_one_of_its_choices(engine: ConstrainedEngine, backend: str) -> None:
    choices = ["a", "ab", 'say "hi"', "back\\slash", "naïve ☃", "two\nlines"]
    spec = spec_of(guided_choice=choices, guided_decoding_backend=backend)
    texts = only(engine.run([engine.ask(f"{seed}", grammar=spec, seed=seed, temperature=2.0) for seed in range(24)]))
    assert set(texts) <= set(choices)
    assert len(set(texts)) > 2


@pytest.mark.parametrize(
    ("source", "backend"), [(GBNF, "xgrammar"), (GBNF, "guidance"), (LARK, "guidance"), (LARK, "xgrammar")]
)
def test_an_answer_follows_its_grammar(engine: ConstrainedEngine, source: str, backend: str) -> None:
    spec = spec_of(guided_grammar=source, guided_decoding_backend=backend)
    for text in only(engine.run([engine.ask(grammar=spec, seed=seed) for seed in SEEDS])):
        assert re.fullmatch(r"\(\d(\+\d)*\)", text)


def test_a_structural_tag_constrains_what_is_inside_its_tags(engine: ConstrainedEngine) -> None:
    content = {"type": "json_schema", "json_schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}}
    tag = {"type": "tag", "begin": "<f>", "content": content, "end": "</f>"}
    form = {"type": "triggered_tags", "triggers": ["<f"], "tags": [tag], "at_least_one": True, "stop_after_first": True}
    spec = spec_of(response_format={"type": "structural_tag", "format": form})
    for text in only(engine.run([engine.ask(grammar=spec, seed=seed) for seed in SEEDS])):
        inside = re.fullmatch(r"<f>(.*)</f>", text, re.DOTALL)
        assert inside
        assert json.loads(inside[1]) in ({}, {"a": True}, {"a": False})


@pytest.mark.parametrize("backend", ALL)
def test_a_compact_answer_has_no_blanks(engine: ConstrainedEngine, backend: str) -> None:
    spec = spec_of(guided_json=schema_for(backend), guided_decoding_backend=f"{backend}:disable-any-whitespace")
    for text in only(engine.run([engine.ask(grammar=spec, seed=seed) for seed in SEEDS])):
        assert re.search(r"\s", text) is None
        jsonschema.validate(json.loads(text), schema_for(backend))


@pytest.mark.parametrize("backend", ["auto", "outlines"])
def test_blanks_follow_the_whitespace_pattern(engine: ConstrainedEngine, backend: str) -> None:
    schema = schema_for(backend)
    spec = spec_of(guided_json=schema, guided_whitespace_pattern="_{2}", guided_decoding_backend=backend)
    for text in only(engine.run([engine.ask(grammar=spec, seed=seed) for seed in SEEDS])):
        assert set(re.findall(r"_+", text)) <= {"__"}
        jsonschema.validate(json.loads(text.replace("__", "")), schema)


def mixed(engine: ConstrainedEngine) -> list[Asked]:
    """Constrained requests and others, greedy and random."""
    spec = spec_of(guided_json=PERSON)
    other = spec_of(guided_json=PERSON, guided_decoding_backend="guidance")
    return [
        asked
        for number in range(4)
        for asked in (
            engine.ask(f"plain {number}", temperature=0.0, max_tokens=60),
            engine.ask(f"constrained {number}", grammar=spec, seed=number, max_tokens=200),
            engine.ask(f"truncated {number}", top_p=0.8, top_k=20, seed=number, max_tokens=60),
            engine.ask(f"other {number}", grammar=other, seed=number, top_k=3, repetition_penalty=1.2, max_tokens=200),
        )
    ]


def test_neighbours_in_a_batch_change_nothing(engine: ConstrainedEngine) -> None:
    together = engine.run(mixed(engine))
    alone = [engine.run([asked])[0] for asked in mixed(engine)]
    assert [answer.token_ids for [answer] in together] == [answer.token_ids for [answer] in alone]


def test_a_preempted_answer_stays_in_its_grammar(engine: ConstrainedEngine) -> None:
    undisturbed = engine.run(mixed(engine))
    squeezed = engine.run(mixed(engine), blocks=20)
    assert engine.preemptions > 0
    assert [answer.token_ids for [answer] in squeezed] == [answer.token_ids for [answer] in undisturbed]


@pytest.mark.parametrize("backend", ALL)
def test_an_answer_goes_on_where_another_worker_left_it(engine: ConstrainedEngine, backend: str) -> None:
    spec = spec_of(guided_json=schema_for(backend), guided_decoding_backend=backend)
    asked = engine.ask(grammar=spec, seed=3)
    [[whole]] = engine.run([asked])
    for length in range(1, len(whole.token_ids) - 1, 7):
        resumed = replace(asked, resumed={0: whole.token_ids[:length]})
        [[answer]] = engine.run([resumed])
        assert answer.token_ids == whole.token_ids


def test_every_choice_has_a_place_of_its_own_in_the_grammar(engine: ConstrainedEngine) -> None:
    [choices] = engine.run([engine.ask(grammar=spec_of(guided_json=PERSON), seed=1, n=3)])
    for choice in choices:
        assert choice.finish_reason is FinishReason.STOP
        jsonschema.validate(json.loads(choice.text), PERSON)
    assert len({choice.text for choice in choices}) == 3


def test_logprobs_are_those_of_the_model(engine: ConstrainedEngine) -> None:
    spec = spec_of(guided_choice=["yes", "no"])
    [[answer]] = engine.run([engine.ask(grammar=spec, seed=1, logprobs=2)])
    assert [entry.token_id for entry in answer.logprobs] == answer.token_ids
    assert all(-100 < entry.logprob < 0 and len(entry.top) == 2 for entry in answer.logprobs)
    [[free]] = engine.run([engine.ask(seed=1, logprobs=2, max_tokens=1)])
    assert answer.logprobs[0].top == free.logprobs[0].top


def test_the_grammar_wins_over_limits_that_leave_nothing(engine: ConstrainedEngine) -> None:
    spec = spec_of(guided_regex="ab")
    letter = tuple(engine.tokenizer.encode("a", add_special_tokens=False))
    asked = [
        engine.ask(grammar=spec, min_tokens=50),
        engine.ask(grammar=spec, bad_words=(letter,)),
        engine.ask(grammar=spec, allowed_token_ids=(engine.tokenizer.encode("z", add_special_tokens=False)[0],)),
        engine.ask(grammar=spec, min_tokens=50, temperature=0.0),
        engine.ask(grammar=spec, logit_bias={engine.eos: 100.0}, presence_penalty=2.0, frequency_penalty=2.0),
    ]
    assert only(engine.run(asked)) == ["ab"] * 5


@pytest.mark.parametrize("kind", ["greedy", "random"])
def test_a_grammar_begins_after_its_marker(engine: ConstrainedEngine, kind: str) -> None:
    spec = GrammarSpec(GrammarKind.REGEX, "[0-9]{4}", after="</t>")
    thought = engine.tokenizer.encode("thinking </t>", add_special_tokens=False)
    asked = engine.ask(grammar=spec, temperature=0.0 if kind == "greedy" else 1.0)
    for length in (len(thought), len(thought) - 1):
        [[answer]] = engine.run([replace(asked, resumed={0: thought[:length]})])
        after = answer.text.partition("</t>")[2] if length < len(thought) else answer.text.removeprefix("thinking </t>")
        assert re.fullmatch("[0-9]{4}", after) or "</t>" not in answer.text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_spent_thinking_budget_ends_the_thinking_and_begins_the_grammar(
    engine: ConstrainedEngine, temperature: float
) -> None:
    marker = tuple(engine.tokenizer.encode("</t>", add_special_tokens=False))
    assert len(marker) > 1
    budget = ThinkingSpec(budget_tokens=7, end_ids=marker, ends=("</t>",), opened=True)
    spec = GrammarSpec(GrammarKind.REGEX, "[0-9]{4}", after="</t>")
    asked = [
        engine.ask(grammar=spec, thinking=budget, n=3, temperature=temperature, seed=5, allowed_token_ids=(4, 5, 6)),
        engine.ask(grammar=spec, thinking=budget, temperature=temperature, seed=5, top_p=0.5),
        engine.ask(temperature=temperature, seed=5, max_tokens=60),
    ]
    limited, truncated, _ = whole = engine.run(asked)
    for answer in (*limited, *truncated):
        assert tuple(answer.token_ids[7 : 7 + len(marker)]) == marker
        assert re.fullmatch("[0-9]{4}", answer.text.partition("</t>")[2])
        assert answer.finish_reason is FinishReason.STOP
    for length in range(1, len(truncated[0].token_ids)):
        [[again]] = engine.run([replace(asked[1], resumed={0: truncated[0].token_ids[:length]})])
        assert again.token_ids == truncated[0].token_ids
    assert [engine.run([one])[0] for one in asked] == whole


@pytest.mark.parametrize("family", ["llama3", "qwen", "llama2", "mistral", "gemma"])
def test_every_family_of_tokenizers_can_be_constrained(tmp_path: Path, family: str) -> None:
    engine = ConstrainedEngine(tmp_path, family)
    for backend in ALL:
        spec = spec_of(guided_json=schema_for(backend), guided_decoding_backend=f"{backend}:disable-any-whitespace")
        asked = [engine.ask("Give me a person: ", grammar=spec, seed=seed) for seed in SEEDS]
        for text in only(engine.run(asked)):
            jsonschema.validate(json.loads(text), PERSON)
    engine.compiler.close()


@pytest.mark.parametrize(
    "backend", [GrammarBackend.XGRAMMAR, GrammarBackend.GUIDANCE, GrammarBackend.LM_FORMAT_ENFORCER]
)
def test_an_answer_whose_grammar_wants_what_no_token_has_is_cut_off(
    engine: ConstrainedEngine, backend: GrammarBackend
) -> None:
    vocabulary = Vocabulary.of(engine.tokenizer, engine.vocab_size, frozenset({engine.eos}))
    without_z = [b"" if b"z" in token else token for token in vocabulary.tokens]
    compiler = GrammarCompiler(lambda: replace(vocabulary, tokens=without_z))
    spec = GrammarSpec(GrammarKind.REGEX, "a[bc]z", backend)
    compiled = compiler.compile(spec).result().matcher()
    for token in engine.tokenizer.encode("ab", add_special_tokens=False):
        compiled.accept(token)
    bitmask = np.zeros((1, -(-engine.vocab_size // 32)), dtype=np.int32)
    compiled.fill(bitmask, 0)
    assert compiled.broken
    assert np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little")).tolist() == [engine.eos]
    compiler.close()


def test_equal_grammars_are_compiled_once(engine: ConstrainedEngine) -> None:
    spec = GrammarSpec(GrammarKind.REGEX, "once")
    first: Future = engine.compiler.compile(spec)
    assert engine.compiler.compile(GrammarSpec(GrammarKind.REGEX, "once")) is first
    assert engine.compiler.compile(GrammarSpec(GrammarKind.REGEX, "once", GrammarBackend.GUIDANCE)) is not first


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (GrammarSpec(GrammarKind.REGEX, "("), "parenthesis|unclosed"),
        (GrammarSpec(GrammarKind.EBNF, 'root ::= "a" other'), "other"),
        (GrammarSpec(GrammarKind.JSON_SCHEMA, '{"type":"strange"}', GrammarBackend.XGRAMMAR), "strange"),
        (GrammarSpec(GrammarKind.JSON_SCHEMA, '{"not":{}}', GrammarBackend.GUIDANCE), "not"),
        (GrammarSpec(GrammarKind.STRUCTURAL_TAG, "{}", GrammarBackend.XGRAMMAR), "format"),
        (GrammarSpec(GrammarKind.REGEX, "(?=a)b", GrammarBackend.OUTLINES), "NFA"),
        (GrammarSpec(GrammarKind.REGEX, r"(a)\1", GrammarBackend.LM_FORMAT_ENFORCER), "Group references"),
    ],
)
def test_what_does_not_compile_is_said_in_one_line(engine: ConstrainedEngine, spec: GrammarSpec, words: str) -> None:
    with pytest.raises(GrammarError, match=words) as caught:
        engine.compiler.compile(spec).result()
    assert "/project/" not in str(caught.value)


@pytest.mark.parametrize("backend", [GrammarBackend.OUTLINES, GrammarBackend.LM_FORMAT_ENFORCER])
def test_a_short_pattern_with_a_vast_automaton_is_refused_in_time(
    engine: ConstrainedEngine, backend: GrammarBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automaton, "_LONGEST_S", 1.0)
    spec = GrammarSpec(GrammarKind.REGEX, "(a|b)*a(a|b){40}", backend)
    with pytest.raises(GrammarError, match="too large"):
        engine.compiler.compile(spec).result()


@pytest.mark.parametrize("backend", [GrammarBackend.OUTLINES, GrammarBackend.LM_FORMAT_ENFORCER])
def test_a_backend_that_is_not_installed_says_how_it_is(
    engine: ConstrainedEngine, backend: GrammarBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    compiler = GrammarCompiler(lambda: Vocabulary.of(engine.tokenizer, engine.vocab_size, frozenset({engine.eos})))
    with pytest.raises(GrammarError, match=re.escape(f"pip install 'headrace[{backend.value}]'")):
        compiler.compile(GrammarSpec(GrammarKind.REGEX, "a", backend)).result()
    compiler.close()


def test_blanks_count_among_the_characters_of_a_string(engine: ConstrainedEngine) -> None:
    schema = {"type": "string", "minLength": 2, "maxLength": 3}
    spec = spec_of(guided_json=schema, guided_decoding_backend="lm-format-enforcer:disable-any-whitespace")
    blank = engine.tokenizer.encode(" ", add_special_tokens=False)[0]
    asked = [engine.ask(grammar=spec, seed=seed, logit_bias={blank: 20.0}) for seed in SEEDS]
    texts = only(engine.run(asked))
    assert '"   "' in texts
    for text in texts:
        jsonschema.validate(json.loads(text), schema)


def test_a_model_without_end_of_text_refuses_grammars(engine: ConstrainedEngine) -> None:
    compiler = GrammarCompiler(lambda: Vocabulary.of(engine.tokenizer, engine.vocab_size, frozenset()))
    with pytest.raises(GrammarError, match="end-of-text"):
        compiler.compile(spec_of(guided_json=PERSON)).result()
    compiler.close()
