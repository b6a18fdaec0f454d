from math import inf

import pytest
import torch

MIXED = [
    {"temperature": 0.0},
    {"seed": 1},
    {"seed": 2, "temperature": 0.7},
    {"seed": 3, "top_k": 20},
    {"seed": 4, "top_p": 0.9},
    {"seed": 5, "min_p": 0.05, "temperature": 1.5},
    {"seed": 6, "top_k": 300, "top_p": 0.99, "logprobs": 3},
    {"seed": 7, "repetition_penalty": 1.2, "presence_penalty": 0.3},
    {"seed": 8, "logit_bias": {5: 4.0}, "logprobs": 0},
    {"temperature": 0.0, "allowed_token_ids": (4, 9, 30), "logprobs": 3},
    {"seed": 9, "bad_words": ((8,), (2, 9))},
    {"seed": 10, "frequency_penalty": -1.0, "top_k": 1},
    {"seed": -4, "top_p": 0.999, "temperature": 2.0},
]


@pytest.mark.parametrize("vocab", [997, 8192, 10_001])
def test_a_row_gets_the_same_token_alone_and_in_any_company(lab, vocab):
    logits = lab.logits(len(MIXED), vocab)

    def make():
        return [lab.sequence([1, 2], [5, 5, 6], choice=i % 3, min_tokens=i % 5, **MIXED[i]) for i in range(len(MIXED))]

    together = lab.sampler(vocab).sample(logits.clone(), make())
    alone = [lab.sampler(vocab).sample(logits[i : i + 1].clone(), [row]) for i, row in enumerate(make())]
    assert together.token_ids == [one.token_ids[0] for one in alone]
    assert together.logprobs == [one.logprobs[0] for one in alone]
    order = [7, 3, 11, 0, 5, 12, 9]
    some = lab.sampler(vocab).sample(logits[order].clone(), [make()[i] for i in order])
    assert some.token_ids == [together.token_ids[i] for i in order]
    assert some.logprobs == [together.logprobs[i] for i in order]


def test_every_share_of_a_row_is_bitwise_the_same_in_any_company_and_with_any_number_of_threads(lab):
    """Softmax and block sums are what a draw is made of; a last bit that moved could move a token."""
    threads = torch.get_num_threads()
    logits = lab.logits(17, 10_001)
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            whole = logits.softmax(1)
            sums = whole[:, :9984].unflatten(1, (39, 256)).sum(2)
            each = [row.softmax(1) for row in logits.split(1)]
            assert torch.equal(whole, torch.cat(each))
            assert torch.equal(sums, torch.cat([row[:, :9984].unflatten(1, (39, 256)).sum(2) for row in each]))
            results.append(sums)
        assert torch.equal(*results)
    finally:
        torch.set_num_threads(threads)


def test_greedy_takes_the_most_likely_token_after_bias_and_penalties(lab):
    logits = torch.zeros(4, lab.vocab_size)
    logits[:, 10], logits[:, 11], logits[:, 12] = 3.0, 2.9, 2.8
    greedy = {"temperature": 0.0}
    rows = [
        lab.sequence(**greedy),
        lab.sequence([1], [10], **greedy, presence_penalty=0.15),
        lab.sequence([10], **greedy, repetition_penalty=2.0, bad_words=((11,),)),
        lab.sequence(**greedy, logit_bias={500: 5.0}),
    ]
    assert lab.sampler().sample(logits, rows).token_ids == [10, 11, 12, 500]


def test_of_equally_likely_tokens_greedy_takes_the_first(lab):
    assert lab.sampler().sample(torch.zeros(1, lab.vocab_size), [lab.sequence(temperature=0.0)]).token_ids == [0]


def test_draws_differ_by_seed_choice_and_position(lab):
    rows = [
        lab.sequence(seed=1),
        lab.sequence(seed=2),
        lab.sequence(seed=1, choice=1),
        lab.sequence(seed=1, output=[5]),
        lab.sequence(seed=1),
    ]
    # Flat, so that different numbers mean different tokens.
    first, *others, again = lab.sampler().sample(torch.zeros(5, lab.vocab_size), rows).token_ids
    assert again == first
    assert len({first, *others}) == 4


def test_the_position_follows_the_sequence_while_the_batch_stays_the_same(lab):
    sampler, row = lab.sampler(), lab.sequence(seed=1)
    for _ in range(5):
        (token,) = sampler.sample(torch.zeros(1, lab.vocab_size), [row]).token_ids
        fresh = lab.sequence(row.token_ids[:2], row.token_ids[2:], seed=1)
        assert lab.sampler().sample(torch.zeros(1, lab.vocab_size), [fresh]).token_ids == [token]
        row.token_ids.append(token)


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7, "top_k": 12},
        {"temperature": 0.9, "top_p": 0.85},
        {"temperature": 1.2, "min_p": 0.08},
        {"temperature": 1.3, "top_k": 25, "top_p": 0.9, "min_p": 0.01},
    ],
    ids=str,
)
def test_draws_over_positions_follow_the_distribution(lab, sampling):
    """Chi-square over 20,000 positions of one sequence, tokens of small expectation pooled."""
    count, vocab = 20_000, 200
    logits = lab.logits(1, vocab, spread=2.0)
    expected = probabilities(logits[0].double(), **sampling) * count
    rows = [lab.sequence(seed=11, **sampling) for _ in range(count)]
    for position, row in enumerate(rows):
        row.prompt_len = row.num_tokens - position
    drawn = lab.sampler(vocab).sample(logits.expand(count, -1).contiguous(), rows).token_ids
    seen = torch.bincount(torch.tensor(drawn), minlength=vocab).double()
    assert seen[expected == 0].sum() == 0
    common = expected >= 10
    pairs = torch.stack([seen, expected])
    pooled = torch.cat([pairs[:, common], pairs[:, ~common].sum(1, keepdim=True)], 1)
    pooled = pooled[:, pooled[1] > 0]
    chi_square = ((pooled[0] - pooled[1]) ** 2 / pooled[1]).sum().item()
    degrees = pooled.shape[1] - 1
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5 + 8


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    weights = (logits / temperature).softmax(0)
    weights[weights < min_p * weights.max()] = 0
    if top_k:
        weights[weights < weights.topk(top_k).values[-1]] = 0
    weights /= weights.sum()
    ordered, index = weights.sort(descending=True)
    weights[index[(ordered.cumsum(0) - ordered) >= top_p]] = 0
    return weights / weights.sum()


def test_logprobs_are_those_of_the_raw_logits_best_first(lab):
    logits = torch.full((1, lab.vocab_size), -inf)
    logits[0, [4, 5, 6]] = torch.tensor([0.5, 0.3, 0.2]).log()
    row = lab.sequence(temperature=0.0, logit_bias={6: 10.0}, logprobs=2)
    result = lab.sampler().sample(
        logits,
        [
            row,
        ][:1],
    )
    assert result.token_ids == [6]
    (entry,) = result.logprobs
    assert (entry.token_id, entry.rank) == (6, 3)
    assert entry.logprob == pytest.approx(-1.609438)
    assert [(top.token_id, top.rank) for top in entry.top] == [(4, 1), (5, 2)]
    assert [top.logprob for top in entry.top] == pytest.approx([-0.693147, -1.203973])


def test_only_rows_that_ask_get_logprobs(lab):
    rows = [lab.sequence(), lab.sequence(logprobs=0), lab.sequence(logprobs=5)]
    none, own, five = lab.sampler().sample(lab.logits(3), rows).logprobs
    assert none is None
    assert own.top == []
    assert [top.rank for top in five.top] == [1, 2, 3, 4, 5]


def test_more_logprobs_than_tokens_gives_all_tokens(lab):
    result = lab.sampler(5).sample(lab.logits(1, 5), [lab.sequence(logprobs=20)])
    assert sorted(top.token_id for top in result.logprobs[0].top) == [0, 1, 2, 3, 4]


def test_prompt_logprobs_score_the_token_after_each_row(lab):
    prompt = [(i * 37) % lab.vocab_size for i in range(150)]
    row = lab.sequence(prompt, prompt_logprobs=1)
    logits = lab.logits(100)
    entries = lab.sampler().prompt_logprobs(logits, row, 20)
    expected = logits.log_softmax(1)
    assert [entry.token_id for entry in entries] == prompt[21:121]
    for i, entry in enumerate(entries):
        assert entry.logprob == pytest.approx(expected[i, entry.token_id].item(), abs=1e-5)
        assert entry.top[0].token_id == expected[i].argmax()
        assert entry.rank == int((expected[i] > expected[i, entry.token_id]).sum()) + 1


def test_a_row_whose_every_token_is_forbidden_gets_some_token_and_harms_no_other(lab):
    contradiction = {"allowed_token_ids": (lab.eos,), "min_tokens": 5}
    rows = [
        lab.sequence(seed=1, **contradiction, **cut) for cut in ({}, {"top_p": 0.5}, {"top_k": 3}, {"temperature": 0.0})
    ]
    rows.append(lab.sequence(seed=1))
    result = lab.sampler().sample(lab.logits(5), rows)
    assert all(0 <= token < lab.vocab_size for token in result.token_ids)
    assert result.token_ids[4] == lab.sampler().sample(lab.logits(5)[4:], [lab.sequence(seed=1)]).token_ids[0]


def test_forgetting_a_request_lets_go_of_its_sequences(lab):
    sampler = lab.sampler()
    sampler.sample(lab.logits(1), [lab.sequence()])
    sampler.forget("another")
    assert sampler._batches
    sampler.forget("r")
    assert not sampler._batches
