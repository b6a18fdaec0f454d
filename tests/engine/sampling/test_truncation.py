"""Which tokens can be drawn, and how often each is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from headrace_worker.execute.logits.draw import draw
from headrace_worker.execute.logits.largest import largest
from headrace_worker.execute.logits.truncation import Truncation, draw_truncated


def truncation(rows, vocab, *, top_k=0, top_p=1.0, min_p=0.0):
    full = lambda value, dtype: torch.full((rows, 1), value, dtype=dtype)  # noqa: E731 - three uses in one line
    return Truncation(full(top_k or vocab, torch.int64), full(top_p, torch.float64), full(min_p, torch.float64))


def reference(logits, *, top_k=0, top_p=1.0, min_p=0.0):
    """Probabilities [rows, vocab] after transformers' processors, in the order min-p, top-k, top-p."""
    warpers = LogitsProcessorList()
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers(None, logits.double()).softmax(-1)


def grid(count):
    """Evenly spaced numbers: drawing at each of them measures every token's share."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]


CUTS = [
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 200},
    {"top_p": 0.1},
    {"top_p": 0.9},
    {"top_p": 0.9999},
    {"min_p": 0.2},
    {"min_p": 0.0001},
    {"top_k": 40, "top_p": 0.8},
    {"top_k": 40, "min_p": 0.05},
    {"top_p": 0.8, "min_p": 0.02},
    {"top_k": 30, "top_p": 0.95, "min_p": 0.01},
]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize(("vocab", "spread"), [(10, 2.0), (1000, 3.0), (9000, 1.0), (9001, 4.0)])
def test_shares_of_tokens_equal_transformers(lab, cut, vocab, spread):
    logits = lab.logits(1, vocab, spread=spread)
    expected = reference(logits, **cut)[0]
    count = 4000 if vocab <= 1000 else 300
    drawn = draw_truncated(logits.expand(count, -1), grid(count), truncation(count, vocab, **cut))
    shares = torch.bincount(drawn, minlength=vocab).double() / count
    assert (shares[expected == 0] == 0).all()
    # Evenly spaced numbers fall into an interval of width p between p * count - 1 and p * count + 1 times.
    assert (shares - expected).abs().max() <= 1.001 / count


@pytest.mark.parametrize("vocab", [5, 255, 256, 257, 9001])
def test_shares_without_truncation_equal_the_softmax(lab, vocab):
    logits = lab.logits(1, vocab)
    count = 4000
    drawn = draw(logits.expand(count, -1).contiguous(), grid(count))
    shares = torch.bincount(drawn, minlength=vocab).double() / count
    assert (shares - logits[0].double().softmax(0)).abs().max() <= 1.01 / count


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_tokens_that_are_possible(lab, number):
    for vocab in (5, 256, 700, 5000):
        logits = lab.logits(1, vocab)
        logits[0, :2] = -torch.inf
        logits[0, -2:] = -torch.inf
        at = torch.tensor([[number]], dtype=torch.float64)
        assert 2 <= draw(logits, at).item() < vocab - 2
        assert 2 <= draw_truncated(logits, at, truncation(1, vocab, top_p=0.9999999)).item() < vocab - 2


def test_tokens_that_share_the_last_place_stay_together(lab):
    logits = torch.zeros(1, 3000)
    logits[0, [5, 77, 2999]] = torch.tensor([2.0, 1.0, 1.0])
    drawn = draw_truncated(logits.expand(500, -1), grid(500), truncation(500, 3000, top_k=2))
    assert set(drawn.tolist()) == {5, 77, 2999}


def test_rows_with_thousands_of_equal_logits_are_drawn_from_all_of_them(lab):
    logits = torch.zeros(1, 3000)
    drawn = draw_truncated(logits.expand(1000, -1), grid(1000), truncation(1000, 3000, top_k=2, top_p=0.5))
    assert torch.bincount(drawn, minlength=3000).view(-1, 3).sum(1).tolist() == [1] * 1000


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.sampled_from([1, 63, 64, 65, 640, 1000, 4096, 4100]),
    share=st.floats(0, 1),
    distinct=st.sampled_from([2, 50, 10**6]),
    seed=st.integers(0, 100),
)
def test_the_largest_values_are_those_that_topk_finds(rows, columns, share, distinct, seed):
    x = torch.randint(0, distinct, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()
    k = max(1, int(share**3 * columns))
    found = largest(x, k)
    ordered = x.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.values, ordered.values[:, :k])
    assert torch.equal(found.columns, ordered.indices[:, :k])


def test_the_largest_values_are_found_among_impossible_ones_and_beside_rows_of_nan(lab):
    x = lab.logits(3, 5000)
    x[0, 100:] = -torch.inf
    x[1] = torch.nan
    found = largest(x, 120)
    for row in (0, 2):
        assert torch.equal(found.values[row], x[row].topk(120).values)
        assert torch.equal(x[row, found.columns[row]], found.values[row])
