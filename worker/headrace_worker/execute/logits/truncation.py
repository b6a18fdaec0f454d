"""min-p, top-k and top-p: draws from the tokens that pass all three, in this order."""

from typing import NamedTuple

import torch

from headrace_worker.execute.logits.draw import first_above
from headrace_worker.execute.logits.largest import largest_values, reaching

_FIRST_LOOK = 64


class Truncation(NamedTuple):
    """Which tokens of each row stay possible; every tensor is [rows, 1]."""

    top_k: torch.Tensor
    """int64; the size of the vocabulary means off."""
    top_p: torch.Tensor
    """float64; 1 means off."""
    min_p: torch.Tensor
    """float64; 0 means off."""

    def rows(self, index: torch.Tensor) -> "Truncation":
        return Truncation(self.top_k[index], self.top_p[index], self.min_p[index])


def draw_truncated(logits: torch.Tensor, uniform: torch.Tensor, truncation: Truncation) -> torch.Tensor:
    """Tokens [rows] from the truncated softmax(logits [rows, vocab]), at ``uniform`` [rows, 1] float64.

    Tokens with equal logits stand or fall together: a row keeps more than ``top_k`` tokens when
    several share the last place.
    """
    kept = reaching(logits, thresholds(logits, truncation))
    values = kept.values.double()
    sums = (values - values.amax(1, keepdim=True)).exp().cumsum(1)
    return kept.columns.gather(1, first_above(sums, uniform * sums[:, -1:])).squeeze(1)


def thresholds(logits: torch.Tensor, truncation: Truncation) -> torch.Tensor:
    """The smallest logit [rows, 1] of each row that stays.

    Looks at a few of the largest logits, and at more of them in those rows where the few do not
    settle it; how many were looked at makes no difference to the result.
    """
    rows, vocab = logits.shape
    found = logits.new_empty((rows, 1))
    totals = _totals(logits, truncation)
    bounds = truncation.top_k[truncation.top_k < vocab]
    # Twice as many as top-k keeps, to see that nothing beyond shares its last place.
    count = max(_FIRST_LOOK, 2 * int(bounds.max()) if len(bounds) else 0)
    pending = torch.arange(rows, device=logits.device)
    while len(pending):
        count = min(count, vocab)
        looked = largest_values(logits if len(pending) == rows else logits[pending], count)
        smallest, settled = _cut(looked.double(), totals[pending], truncation.rows(pending), vocab)
        found[pending[settled]] = smallest[settled]
        pending = pending[~settled]
        count *= 8
    return found


class _Cut(NamedTuple):
    smallest: torch.Tensor
    """[rows, 1] float32; the last of the looked-at logits that stays."""
    settled: torch.Tensor
    """[rows]; no token that was not looked at can stay."""


def _cut(values: torch.Tensor, totals: torch.Tensor, truncation: Truncation, vocab: int) -> _Cut:
    """Cut the looked-at logits [rows, count], largest first; ``totals`` as from ``_totals``."""
    count = values.shape[1]
    everything = count == vocab
    weights = (values - values[:, :1]).exp()
    # A top_k that is on never reaches beyond what was looked at.
    kth = values.gather(1, truncation.top_k.clamp_max(count) - 1).where(truncation.top_k < vocab, -torch.inf)
    # An impossible token never stays, however few others there are.
    stays = (values >= kth) & (weights >= truncation.min_p) & (values > -torch.inf)
    complete = ~stays[:, -1:] | everything
    sums = weights.where(stays, 0.0).cumsum(1)
    unbounded = totals > 0
    nucleus = truncation.top_p * totals.where(unbounded, sums[:, -1:])
    stays &= (sums - weights < nucleus) | (truncation.top_p >= 1)
    stays[:, 0] = True
    smallest = values.where(stays, torch.inf).amin(1, keepdim=True)
    settled = (unbounded | complete) & ((values[:, -1:] < smallest) | everything)
    return _Cut(smallest.float(), settled.squeeze(1))


def _totals(logits: torch.Tensor, truncation: Truncation) -> torch.Tensor:
    """[rows, 1]: the sum of exp(logit - largest logit) over all tokens, for rows that have top-p only; 0 for others."""
    totals = torch.zeros_like(truncation.top_p)
    rows = ((truncation.top_k >= logits.shape[1]) & (truncation.min_p <= 0)).squeeze(1).nonzero().squeeze(1)
    if len(rows):
        totals[rows] = 1 / logits[rows].softmax(1).amax(1, keepdim=True).double()
    return totals
