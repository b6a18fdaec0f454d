"""Constrained answers with guesses are those without, and guesses that a grammar forbids are never computed."""

import pytest
from constrained import Answered, Asked, ConstrainedEngine, spec_of
from guesses import Oracle, Told

from headrace_shared.protocol.sampling import ThinkingSpec
from headrace_worker.execute.grammar.matcher import CompiledGrammar, TokenMatcher
from headrace_worker.schedule.speculation.ngram import NgramProposer
from headrace_worker.schedule.speculation.suffix import SuffixProposer, SuffixRules

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,9}$"},
        "kind": {"enum": ["cat", "dog", "cow"]},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "kind", "ages"],
}
BACKENDS = ("xgrammar", "guidance")
GBNF = 'root ::= "(" sum ")"\nsum ::= [0-9] | [0-9] "+" sum\n'


def asked_of(engine: ConstrainedEngine, backend: str) -> list[Asked]:
    schema = spec_of(guided_json=PERSON, guided_decoding_backend=backend)
    compact = spec_of(guided_json=PERSON, guided_decoding_backend=f"{backend}:disable-any-whitespace")
    notation = spec_of(guided_grammar=GBNF, guided_decoding_backend=backend)
    pattern = spec_of(guided_regex=r"(\d{3}-){4}\d", guided_decoding_backend=backend)
    return [
        engine.ask(grammar=schema, seed=1, n=2, logprobs=2),
        engine.ask(grammar=compact, seed=2, temperature=0.0),
        engine.ask(grammar=notation, seed=3, repetition_penalty=1.2),
        engine.ask(grammar=pattern, seed=4, allowed_token_ids=tuple(range(100))),
        engine.ask(grammar=pattern, seed=5, min_tokens=12),
        engine.ask(seed=6, max_tokens=40),
    ]


def oracle(answers: list[list[Answered]], wrong_in: int) -> Oracle:
    known = {
        (str(number), choice): Told(answer.token_ids)
        for number, choices in enumerate(answers)
        for choice, answer in enumerate(choices)
    }
    return Oracle(known, wrong_in)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong_in", [0, 1, 3])
def test_constrained_answers_are_the_same_with_guesses(engine: ConstrainedEngine, backend: str, wrong_in: int) -> None:
    asked = asked_of(engine, backend)
    plain = engine.run(asked)
    assert engine.run(asked, proposer=oracle(plain, wrong_in)) == plain
    assert engine.guessed is not None
    assert engine.guessed.drafts > 10
    if wrong_in == 0:
        assert engine.guessed.accepted_tokens == engine.guessed.draft_tokens
    assert engine.run(asked, proposer=oracle(plain, wrong_in), blocks=40) == plain


@pytest.mark.parametrize("backend", BACKENDS)
def test_real_proposers_change_no_constrained_answer(engine: ConstrainedEngine, backend: str) -> None:
    asked = asked_of(engine, backend)
    plain = engine.run(asked)
    stored = SuffixProposer(SuffixRules())
    assert engine.run(asked, proposer=NgramProposer(1, 3)) == plain
    assert engine.run(asked, proposer=stored) == plain
    assert engine.run(asked, proposer=stored) == plain
    assert engine.guessed is not None
    # The second time everything is known.
    assert engine.guessed.accepted_tokens > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_guesses_after_thoughts_are_held_to_the_grammar(engine: ConstrainedEngine, backend: str) -> None:
    end = engine.tokenizer.encode("</t>", add_special_tokens=False)
    thinking = ThinkingSpec(budget_tokens=9, end_ids=tuple(end), ends=("</t>",), opened=True)
    grammar = spec_of(guided_json=PERSON, guided_decoding_backend=backend)
    asked = [engine.ask(grammar=_after(grammar, "</t>"), thinking=thinking, seed=seed, n=2) for seed in range(3)]
    plain = engine.run(asked)
    assert all("</t>" in answer.text for choices in plain for answer in choices)
    for wrong_in in (0, 2):
        assert engine.run(asked, proposer=oracle(plain, wrong_in)) == plain


def _after(spec, end):
    import msgspec

    return msgspec.structs.replace(spec, after=end)


@pytest.mark.parametrize("backend", [*BACKENDS, "outlines", "lm-format-enforcer"])
def test_a_matcher_says_how_many_tokens_may_come_and_stays_where_it_is(engine: ConstrainedEngine, backend: str) -> None:
    spec = spec_of(guided_regex="abc[0-9]{2}", guided_decoding_backend=backend)
    compiled = engine.compiler.compile(spec).result()
    assert isinstance(compiled, CompiledGrammar)
    matcher = compiled.matcher()
    assert isinstance(matcher, TokenMatcher)
    a, b, c, seven, end = (_single(engine, text) for text in ("a", "b", "c", "7", ""))
    for _ in range(2):
        assert matcher.possible([a, b, c, seven, seven]) == 5
        assert matcher.possible([a, b, c, seven, seven, seven]) == 5
        assert matcher.possible([a, b, seven]) == 2
        assert matcher.possible([b]) == 0
        assert matcher.possible([a, b, c, seven, seven, end, a]) == 5
        assert matcher.possible([end]) == 0
    matcher.accept(a)
    assert matcher.possible([a]) == 0
    assert matcher.possible([b, c]) == 2
    for token_id in (b, c, seven, seven, end):
        matcher.accept(token_id)
    assert matcher.possible([a]) == 0


def _single(engine: ConstrainedEngine, text: str) -> int:
    """The token that is one character; the end for none."""
    if not text:
        return engine.eos
    found = [id_ for id_ in range(engine.tokenizer.vocab_size) if engine.tokenizer.token_bytes(id_) == text.encode()]
    return found[0]
