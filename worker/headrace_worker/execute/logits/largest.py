"""The largest values of wide rows, without sorting what cannot be among them.

On a CPU through numpy, whose comparisons and sorts are several times as fast as torch's.
"""

from typing import NamedTuple

import numpy as np
import torch

_BLOCKS = (64, 32, 16, 8)


class Picked(NamedTuple):
    """Some values of each row and their columns, both [rows, width]."""

    values: torch.Tensor
    columns: torch.Tensor


def reaching(x: torch.Tensor, bound: torch.Tensor) -> Picked:
    """The values of contiguous x [rows, columns] that are at least ``bound`` [rows, 1], in the order of their columns.

    As wide as the fullest row, and at least 1; the others are filled up with -inf at column 0.
    """
    rows, columns = x.shape
    if x.device.type == "cpu":
        flat = torch.from_numpy(np.flatnonzero(x.numpy() >= bound.numpy()))
    else:
        flat = (x >= bound).flatten().nonzero().squeeze(1)
    row, column = flat // columns, flat % columns
    counts = torch.bincount(row, minlength=rows)
    width = max(1, int(counts.max()))
    place = torch.arange(len(flat), device=x.device) - (counts.cumsum(0) - counts)[row]
    picked = Picked(x.new_full((rows, width), -torch.inf), column.new_zeros((rows, width)))
    picked.values[row, place] = x.flatten()[flat]
    picked.columns[row, place] = column
    return picked


def largest_values(x: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest values [rows, k] of contiguous x [rows, columns], largest first."""
    rows, columns = x.shape
    block = next((size for size in _BLOCKS if k <= columns // size), None)
    if x.device.type != "cpu" or block is None:
        return x.topk(k).values if k < columns else _descending(x)
    # The k-th largest of the blocks' maxima is a bound that k values reach at least.
    edge = columns // block * block
    maxima = x[:, :edge].unflatten(1, (-1, block)).amax(2)
    found = _descending(reaching(x, maxima.topk(k, sorted=False).values.amin(1, keepdim=True)).values)[:, :k]
    # Only rows that are not numbers are short.
    return torch.cat([found, x.new_full((rows, k - found.shape[1]), -torch.inf)], 1)


def largest(x: torch.Tensor, k: int) -> Picked:
    """The k largest values with their columns, largest first, of equal values the one in the lower column."""
    picked = reaching(x, largest_values(x, k)[:, -1:])
    values, order = picked.values.sort(dim=1, descending=True, stable=True)
    return Picked(values[:, :k], picked.columns.gather(1, order[:, :k]))


def _descending(x: torch.Tensor) -> torch.Tensor:
    if x.device.type == "cpu":
        return torch.from_numpy(np.sort(x.numpy(), axis=1)).flip(1)
    return x.sort(dim=1, descending=True).values
