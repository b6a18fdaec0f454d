"""min-p, top-k and top-p: draws from the tokens that pass all three, in this order."""

from typing import NamedTuple

import torch

from headrace_worker.execute.logits.draw import first_above
from headrace_worker.execute.logits.largest import Largest, largest

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
    several share the last place. Only a few of the largest logits are looked at, and more of them
    in those rows where the few do not settle which tokens stay; how many makes no difference.
    """
    rows, vocab = logits.shape
    tokens = torch.zeros(rows, dtype=torch.int64, device=logits.device)
    totals = _totals(logits, truncation)
    bounds = truncation.top_k[truncation.top_k < vocab]
    # Twice as many as top-k keeps, to see that nothing beyond shares its last place.
    count = max(_FIRST_LOOK, 2 * int(bounds.max()) if len(bounds) else 0)
    pending = torch.arange(rows, device=logits.device)
    while len(pending):
        count = min(count, vocab)
        seen = largest(logits[pending], count)
        kept, settled = _keep(seen.values.double(), totals[pending], truncation.rows(pending), vocab)
        done = pending[settled]
        tokens[done] = _pick(Largest(kept[settled], seen.columns[settled]), uniform[done])
        pending = pending[~settled]
        count *= 8
    return tokens


class _Kept(NamedTuple):
    weights: torch.Tensor
    """[rows, count]; 0 for the tokens that are cut off."""
    settled: torch.Tensor
    """[rows]; no token that was not looked at can stay."""


def _keep(values: torch.Tensor, totals: torch.Tensor, truncation: Truncation, vocab: int) -> _Kept:
    """Cut the looked-at logits [rows, count], largest first; ``totals`` as from ``_totals``."""
    count = values.shape[1]
    everything = count == vocab
    weights = (values - values[:, :1]).exp()
    # A top_k that is on never reaches beyond what was looked at.
    kth = values.gather(1, truncation.top_k.clamp_max(count) - 1).where(truncation.top_k < vocab, -torch.inf)
    survives = (values >= kth) & (weights >= truncation.min_p)
    complete = ~survives[:, -1:] | everything
    sums = weights.where(survives, 0.0).cumsum(1)
    unbounded = totals > 0
    nucleus = truncation.top_p * totals.where(unbounded, sums[:, -1:])
    survives &= (sums - weights < nucleus) | (truncation.top_p >= 1)
    survives[:, 0] = True
    threshold = values.where(survives, torch.inf).amin(1, keepdim=True)
    settled = (unbounded | complete) & ((values[:, -1:] < threshold) | everything)
    return _Kept(weights.where(values >= threshold, 0.0), settled.squeeze(1))


def _totals(logits: torch.Tensor, truncation: Truncation) -> torch.Tensor:
    """[rows, 1]: the sum of exp(logit - largest logit) over all tokens, for rows that have top-p only; 0 for others."""
    totals = torch.zeros_like(truncation.top_p)
    rows = ((truncation.top_k >= logits.shape[1]) & (truncation.min_p <= 0)).squeeze(1).nonzero().squeeze(1)
    if len(rows):
        totals[rows] = 1 / logits[rows].softmax(1).amax(1, keepdim=True).double()
    return totals


def _pick(kept: Largest, uniform: torch.Tensor) -> torch.Tensor:
    # In the vocabulary's order, because that of equal logits is not defined.
    columns, order = kept.columns.sort(1)
    sums = kept.values.gather(1, order).cumsum(1)
    return columns.gather(1, first_above(sums, uniform * sums[:, -1:])).squeeze(1)
