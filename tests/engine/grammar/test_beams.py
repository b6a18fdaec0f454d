"""A beam search inside a grammar finds the most likely of all the answers that the grammar has."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from constrained import Answered, ConstrainedEngine, spec_of
from transformers import AutoModelForCausalLM

from headrace_shared.protocol.event import FinishReason
from headrace_shared.protocol.grammar import GrammarSpec
from headrace_shared.protocol.sampling import BeamSpec

PROMPT = "answer:"
WIDE = 16
"""More beams than there are ways to begin an answer, so that the search overlooks nothing."""


@dataclass
class Bench:
    """An engine, and the same model in transformers' hands."""

    engine: ConstrainedEngine
    model: torch.nn.Module

    def every_answer(self, spec: GrammarSpec) -> list[list[int]]:
        """All token sequences of a grammar with few of them, their end included."""
        grammar = self.engine.compiler.compile(spec).result()
        found: list[list[int]] = []
        waiting: list[list[int]] = [[]]
        while waiting:
            begun = waiting.pop()
            for token_id in self._next(grammar, begun):
                longer = [*begun, token_id]
                (found if token_id == self.engine.eos else waiting).append(longer)
        return found

    def likelihood(self, answer: list[int]) -> float:
        """The sum of the tokens' log-probabilities, which the grammar does not change."""
        prompt = self.engine.tokenizer.encode(PROMPT, add_special_tokens=False)
        with torch.inference_mode():
            logits = self.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        return float(logits.float().log_softmax(1).gather(1, torch.tensor(answer)[:, None]).sum())

    def search(self, spec: GrammarSpec, *, n: int, penalty: float, **fields: object) -> list[Answered]:
        beams = BeamSpec(WIDE, penalty)
        [answers] = self.engine.run([self.engine.ask(PROMPT, grammar=spec, n=n, beams=beams, max_tokens=20, **fields)])
        return answers

    def _next(self, grammar: object, begun: list[int]) -> list[int]:
        matcher = grammar.matcher()
        for token_id in begun:
            matcher.accept(token_id)
        bitmask = np.zeros((1, -(-self.engine.vocab_size // 32)), dtype=np.int32)
        matcher.fill(bitmask, 0)
        return np.flatnonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little")).tolist()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder: Path = tmp_path_factory.mktemp("beams")
    engine = ConstrainedEngine(folder)
    yield Bench(engine, AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval())
    engine.compiler.close()


@pytest.mark.parametrize("penalty", [0.0, 1.0, -1.0])
@pytest.mark.parametrize(
    "fields",
    [
        {"guided_choice": ["yes", "no", "not", "yellow"]},
        {"guided_regex": "[ab]{1,2}c?"},
        {"guided_json": {"enum": [True, None, "a"]}, "guided_decoding_backend": "auto:disable-any-whitespace"},
    ],
)
def test_the_best_of_all_answers_come_first(bench: Bench, fields: dict[str, object], penalty: float) -> None:
    spec = spec_of(**fields)
    every = bench.every_answer(spec)
    assert 3 <= len(every) <= 200
    expected = sorted(every, key=lambda answer: -bench.likelihood(answer) / len(answer) ** penalty)[:3]
    answers = bench.search(spec, n=3, penalty=penalty)
    assert [answer.token_ids for answer in answers] == expected
    assert {answer.finish_reason for answer in answers} == {FinishReason.STOP}


def test_logprobs_of_beams_are_those_of_the_model(bench: Bench) -> None:
    for answer in bench.search(spec_of(guided_choice=["yes", "no"]), n=2, penalty=1.0, logprobs=0):
        assert [entry.token_id for entry in answer.logprobs] == answer.token_ids
        assert sum(entry.logprob for entry in answer.logprobs) == pytest.approx(
            bench.likelihood(answer.token_ids), abs=1e-3
        )


def test_a_grammar_with_fewer_answers_than_beams_leaves_the_rest_empty(bench: Bench) -> None:
    spec = spec_of(guided_regex="ab")
    every = bench.every_answer(spec)
    answers = bench.search(spec, n=len(every) + 2, penalty=1.0)
    assert sorted(answer.token_ids for answer in answers[: len(every)]) == sorted(every)
    assert [answer.token_ids for answer in answers[len(every) :]] == [[], []]
    assert {answer.finish_reason for answer in answers[len(every) :]} == {FinishReason.LENGTH}
