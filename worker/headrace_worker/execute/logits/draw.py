"""One token per row, by inverting the cumulative distribution at a given number in [0, 1).

A row's result depends on its own logits, parameters and number only: sums run within a row, in an
order that does not depend on how many rows there are.
"""

import torch

_BLOCK = 256


def draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Tokens [rows] from softmax(logits [rows, vocab]), at ``uniform`` [rows, 1] float64.

    Two levels: first the block in which the cumulative sum passes the target, then the token in it.
    """
    weights = logits.softmax(1)
    vocab = weights.shape[1]
    blocks = vocab // _BLOCK
    edge = blocks * _BLOCK
    body = weights[:, :edge].unflatten(1, (blocks, _BLOCK)).sum(2)
    sums = torch.cat([body, weights[:, edge:].sum(1, keepdim=True)], 1).cumsum(1, dtype=torch.float64)
    target = uniform * sums[:, -1:]
    block = first_above(sums, target)
    before = sums.gather(1, (block - 1).clamp_min(0)).where(block > 0, 0.0)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    # The last block may be short: its places beyond the vocabulary weigh nothing.
    inside = weights.gather(1, columns.clamp_max(vocab - 1)).where(columns < vocab, 0.0)
    place = first_above(inside.cumsum(1, dtype=torch.float64), target - before)
    return (block * _BLOCK + place).clamp_max(vocab - 1).squeeze(1)


def first_above(sums: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The first place in each row of cumulative sums that is above the target [rows, 1].

    Where rounding leaves none: the last place at which the sum grew, so that a token of weight
    zero is never taken.
    """
    above = torch.searchsorted(sums, target, right=True)
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())
    # A row without any possible token has sums that are not numbers, and gets its last place.
    return torch.minimum(above, last).clamp_max(sums.shape[1] - 1)
