"""Each feature changes the logits as the libraries that people compare with do."""

from math import inf

import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from headrace_worker.execute.logits.bias import AllowedTokens, BadWords, LogitBias
from headrace_worker.execute.logits.limits import MinTokens
from headrace_worker.execute.logits.penalties import CountsCache, Penalties

CPU = torch.device("cpu")


def test_repetition_penalty_equals_transformers_over_prompt_and_output(lab):
    rows = [
        lab.sequence([1, 2, 2, 5], [7, 7, 8], repetition_penalty=1.3),
        lab.sequence([4], [9]),
        lab.sequence([6, 5], [], repetition_penalty=0.7),
    ]
    logits = lab.logits(3)
    expected = logits.clone()
    for row in (0, 2):
        ids = torch.tensor([rows[row].token_ids])
        penalty = RepetitionPenaltyLogitsProcessor(rows[row].sampling.repetition_penalty)
        expected[row] = penalty(ids, logits[row : row + 1])[0]
    Penalties.for_batch(rows, CountsCache()).apply(logits)
    assert torch.equal(logits, expected)


def test_presence_and_frequency_penalties_count_the_output_only(lab):
    row = lab.sequence([5, 5, 6], [7, 8, 8, 5], presence_penalty=0.5, frequency_penalty=0.25)
    logits = torch.zeros(1, lab.vocab_size)
    Penalties.for_batch([row], CountsCache()).apply(logits)
    changed = {token: value for token, value in enumerate(logits[0].tolist()) if value}
    assert changed == {7: -0.75, 8: -1.0, 5: -0.75}


def test_repetition_comes_before_frequency_and_presence(lab):
    row = lab.sequence([1], [7], presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=2.0)
    logits = torch.full((1, lab.vocab_size), 4.0)
    Penalties.for_batch([row], CountsCache()).apply(logits)
    assert (logits[0, 7].item(), logits[0, 1].item(), logits[0, 2].item()) == (0.5, 2.0, 4.0)


def test_counts_that_follow_token_by_token_equal_counts_made_at_once(lab):
    tokens = [(i * 7919) % 300 for i in range(500)]
    grown = lab.sequence([1, 2], repetition_penalty=1.1, frequency_penalty=0.3)
    penalties = Penalties.for_batch([grown], CountsCache())
    for token in tokens:
        grown.token_ids.append(token)
        step = lab.logits(1)
        penalties.apply(step)
    whole = lab.logits(1)
    fresh = lab.sequence([1, 2], tokens, repetition_penalty=1.1, frequency_penalty=0.3)
    Penalties.for_batch([fresh], CountsCache()).apply(whole)
    assert torch.equal(step, whole)


def test_counts_are_dropped_with_their_sequence(lab):
    cache = CountsCache()
    row = lab.sequence([1], [2], presence_penalty=1.0)
    Penalties.for_batch([row], cache).apply(lab.logits(1))
    assert len(cache) == 1
    del row
    assert len(cache) == 0


def test_bad_words_equal_transformers(lab):
    words = ((10,), (5, 6), (7, 8, 9), (4, 5, 11), (8, 12), (5, 6, 13))
    contexts = [[1, 5], [7, 8], [4, 5], [1, 2], [8], [5, 6]]
    rows = [lab.sequence(context[:1], context[1:], bad_words=words) for context in contexts]
    logits = lab.logits(len(rows) + 1)
    theirs = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=lab.eos)
    expected = torch.cat(
        [theirs(torch.tensor([context]), logits[i : i + 1]) for i, context in enumerate(contexts)] + [logits[-1:]]
    )
    BadWords.for_batch([*rows, lab.sequence()], lab.vocab_size, CPU).apply(logits)
    assert torch.equal(logits, expected)


def test_min_tokens_equals_transformers_until_enough_are_there(lab):
    ending = [lab.eos, 8, 9]
    rows = [lab.sequence([1], output, min_tokens=2, stop_token_ids=(8, 9)) for output in ([], [5], [5, 5])]
    logits = lab.logits(3)
    theirs = MinNewTokensLengthLogitsProcessor(1, 2, ending)
    expected = torch.cat([theirs(torch.tensor([row.token_ids]), logits[i : i + 1]) for i, row in enumerate(rows)])
    MinTokens.for_batch(rows, frozenset({lab.eos}), lab.vocab_size, CPU).apply(logits)
    assert torch.equal(logits, expected)
    assert torch.isfinite(logits[2]).all()


def test_min_tokens_stops_masking_while_the_batch_stays_the_same(lab):
    row = lab.sequence([1], [], min_tokens=1)
    processor = MinTokens.for_batch([row], frozenset({lab.eos}), lab.vocab_size, CPU)
    row.token_ids.append(5)
    logits = lab.logits(1)
    processor.apply(logits)
    assert torch.isfinite(logits).all()


def test_only_allowed_tokens_stay_and_other_rows_are_untouched(lab):
    logits = lab.logits(2)
    before = logits.clone()
    rows = [lab.sequence(), lab.sequence(allowed_token_ids=(5, 7))]
    AllowedTokens.for_batch(rows, lab.vocab_size, CPU).apply(logits)
    assert torch.equal(logits[0], before[0])
    assert logits[1].isfinite().nonzero().flatten().tolist() == [5, 7]
    assert torch.equal(logits[1, [5, 7]], before[1, [5, 7]])


def test_logit_bias_is_added_and_does_not_bring_back_what_is_forbidden(lab):
    logits = torch.zeros(2, lab.vocab_size)
    logits[1, 4] = -inf
    rows = [lab.sequence(logit_bias={2: 1.5, 4: -100.0}), lab.sequence(logit_bias={4: 100.0})]
    LogitBias.for_batch(rows, lab.vocab_size, CPU).apply(logits)
    assert (logits[0, 2].item(), logits[0, 4].item(), logits[1, 4].item()) == (1.5, -100.0, -inf)


def test_ids_outside_the_vocabulary_change_nothing(lab):
    wild = (lab.vocab_size, lab.vocab_size + 7)
    rows = [
        lab.sequence(logit_bias=dict.fromkeys(wild, 1.0), bad_words=((wild[0],),), min_tokens=2, stop_token_ids=wild),
        lab.sequence(),
    ]
    logits = lab.logits(2)
    before = logits.clone()
    lab.sampler().sample(logits, rows)
    before[0, lab.eos] = -inf
    assert torch.equal(logits, before)


@pytest.mark.parametrize("processor", [AllowedTokens, BadWords, LogitBias])
def test_a_feature_that_no_row_asks_for_has_no_processor(lab, processor):
    assert processor.for_batch([lab.sequence()], lab.vocab_size, CPU) is None
    assert MinTokens.for_batch([lab.sequence()], frozenset({1}), lab.vocab_size, CPU) is None
    assert Penalties.for_batch([lab.sequence()], CountsCache()) is None
