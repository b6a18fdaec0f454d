"""What is told of sampled tokens: of which tokens, and in which of four ways."""

from math import inf

import pytest
import torch

from headrace_shared.protocol.sampling import BeamSpec
from headrace_worker.execute.logits.logprobs import LogprobsMode
from headrace_worker.execute.sampler import Sampler
from headrace_worker.schedule.beam import Candidate

MIXED = [
    {"temperature": 0.0, "logit_bias": {7: 3.0}},
    {"temperature": 0.5, "seed": 1},
    {"temperature": 2.0, "seed": 2, "top_k": 5},
    {"seed": 3, "top_p": 0.5, "repetition_penalty": 1.3},
]


def drawn_from(logits: torch.Tensor, spec: dict, seen: list[int]) -> torch.Tensor:
    """One row's distribution as logits, written down step by step."""
    row = logits.clone()
    for token, bias in spec.get("logit_bias", {}).items():
        row[token] += bias
    if "repetition_penalty" in spec:
        seen = sorted(set(seen))
        row[seen] = torch.where(row[seen] > 0, row[seen] / 1.3, row[seen] * 1.3)
    if spec.get("temperature", 1.0) > 0:
        row = row / spec.get("temperature", 1.0)
    if "top_k" in spec:
        row[row < row.topk(5).values[-1]] = -inf
    if "top_p" in spec:
        values, order = row.softmax(0).sort(descending=True)
        row[order[values.cumsum(0) - values >= spec["top_p"]]] = -inf
    return row


@pytest.mark.parametrize("mode", LogprobsMode)
def test_each_mode_tells_what_it_says(lab, mode):
    logits = lab.logits(len(MIXED))
    rows = [lab.sequence([1, 2], [5, 5], logprobs=4, **spec) for spec in MIXED]
    told = Sampler(lab.vocab_size, frozenset({lab.eos}), mode).sample(logits.clone(), rows)
    plain = lab.sampler().sample(logits.clone(), rows)
    assert told.token_ids == plain.token_ids
    for row, spec in enumerate(MIXED):
        expected = logits[row] if mode.raw else drawn_from(logits[row], spec, [1, 2, 5])
        values = expected.log_softmax(0) if mode.normalised else expected
        entry = told.logprobs[row]
        assert entry.logprob == pytest.approx(float(values[entry.token_id]), abs=1e-4)
        best = expected.topk(4)
        assert [each.rank for each in entry.top] == [1, 2, 3, 4]
        got = torch.tensor([each.logprob for each in entry.top])
        torch.testing.assert_close(got, values[best.indices], atol=1e-4, rtol=1e-4)


def test_named_tokens_take_the_place_of_the_most_likely_ones(lab):
    logits = lab.logits(3)
    named = (9, 700, 3)
    rows = [
        lab.sequence(temperature=0.0, logprobs=0, logprob_token_ids=named),
        lab.sequence(temperature=0.0, logprobs=2),
        lab.sequence(temperature=0.0, logprobs=5, logprob_token_ids=(8,)),
    ]
    first, second, third = lab.sampler().sample(logits.clone(), rows).logprobs
    values = logits.log_softmax(1)
    assert [each.token_id for each in first.top] == sorted(named, key=lambda token: -logits[0, token])
    for each in first.top:
        assert each.logprob == pytest.approx(float(values[0, each.token_id]), abs=1e-4)
        assert each.rank == int((logits[0] > logits[0, each.token_id]).sum()) + 1
    assert [each.token_id for each in second.top] == logits[1].topk(2).indices.tolist()
    assert [each.token_id for each in third.top] == [8]


def test_the_whole_vocabulary_can_be_told(lab):
    logits = lab.logits(1)
    [entry] = lab.sampler().sample(logits.clone(), [lab.sequence(logprobs=lab.vocab_size)]).logprobs
    assert [each.token_id for each in entry.top] == logits[0].argsort(descending=True).tolist()
    assert sum(torch.tensor([each.logprob for each in entry.top]).exp()) == pytest.approx(1.0, abs=1e-3)


def test_a_beams_ways_to_go_on_are_told_as_its_tokens_would_be(lab):
    logits = lab.logits(2)
    beam = lab.sequence(beams=BeamSpec(3), logprobs=1, logprob_token_ids=(4, 5))
    quiet = lab.sequence(beams=BeamSpec(2))
    found = lab.sampler().sample(logits.clone(), [beam, quiet]).candidates
    values = logits.log_softmax(1)
    best = values[0].topk(6)
    assert [each.token_id for each in found[beam]] == best.indices.tolist()
    for each in found[beam]:
        assert each.logprob.token_id == each.token_id
        assert each.logprob.logprob == pytest.approx(each.score, abs=1e-4)
        assert {other.token_id for other in each.logprob.top} == {4, 5}
    assert all(isinstance(each, Candidate) and each.logprob is None for each in found[quiet])
